//! Renders the interface as a page: a table per kind of event.

use std::fmt::Write;

use wit_parser::{
    Docs, Function, Interface, Record, Resolve, Type, TypeDef, TypeDefKind, TypeId, TypeOwner, WorldItem, WorldKey,
};

/// What a reader has to know before the tables.
const INTRODUCTION: &str = "\
# Events and interfaces

<!-- Generated from wit/ by tests/docs: `UPDATE_DOCS=1 cargo test --release --test docs` writes it anew. -->

A plugin is a WebAssembly component. The interfaces that it exports are its subscription: one that exports `on-exec` gets
`exec` events. This page lists the kinds of events with their fields, what else a plugin may export, and the services of
the host that it may import. The files in `wit/` are the same in the form that tools read.

## As JSON

The plugin `json-log` prints every event as a line of JSON, and the Rust SDK gives events the same form:

- `kind` comes first, then the fields in the order of the tables below, named in snake_case;
- a `timestamp` is a string in RFC 3339 with nanoseconds, UTC: `\"2026-01-02T03:04:05.000000006Z\"`;
- the fields of `task` stand beside the event's own, not in an object of their own;
- an `option` that is none is `null`; an optional `task` that is none is left out;
- an enum is its case's name in snake_case, as a string;
- a `list<field>` is an object of names with values.

Numbers are whole numbers of up to 64 bits: read them with a parser that does not make floating-point numbers of them.
";

/// The page docs/events.md.
pub fn page(resolve: Resolve) -> String {
    Page { resolve }.render()
}

struct Page {
    resolve: Resolve,
}

/// A kind of event: its name, its record's name and the record, and the interface that the record stands in.
struct Kind<'a> {
    name: &'a str,
    record: &'a Record,
    definition: &'a TypeDef,
    family: &'a Interface,
}

impl Page {
    fn render(&self) -> String {
        let mut page = INTRODUCTION.to_owned();
        let kinds = self.kinds();
        page.push_str("\n## Kinds\n\n| kind | what happened |\n|---|---|\n");
        for kind in &kinds {
            _ = writeln!(page, "| [`{0}`](#{0}) | {1} |", kind.name, sentence(&kind.definition.docs));
        }
        page.push_str("\n## What events share\n");
        // Backwards: the task, which is more than a number, comes first.
        for id in self.interface("types").types.values().rev() {
            self.definition(&mut page, *id);
        }
        let mut family = None;
        for kind in &kinds {
            if family.replace(&kind.family.name) != Some(&kind.family.name) {
                _ = write!(page, "\n## Events: {}\n\n{}\n", name(&kind.family.name), text(&kind.family.docs));
            }
            _ = write!(
                page,
                "\n### {}\n\n{}\n\n{}\n",
                kind.name,
                text(&kind.definition.docs),
                self.exports_of(kind.name)
            );
            self.table(&mut page, kind.record);
            self.parts(&mut page, kind);
        }
        page.push_str("\n## What else a plugin may export\n");
        for interface in
            self.of_world(true).filter(|i| self.event_of(i).is_none() && !name(&i.name).starts_with("filter-"))
        {
            self.functions(&mut page, interface);
        }
        page.push_str("\n## Services of the host\n\nA plugin may import these.\n");
        for interface in self.of_world(false).filter(|interface| !interface.functions.is_empty()) {
            self.functions(&mut page, interface);
        }
        page
    }

    fn interface(&self, wanted: &str) -> &Interface {
        self.resolve.interfaces.iter().find(|(_, interface)| name(&interface.name) == wanted).expect("it is there").1
    }

    /// The interfaces that a plugin may export, or import.
    fn of_world(&self, exported: bool) -> impl Iterator<Item = &Interface> {
        let world = self.resolve.worlds.iter().find(|(_, world)| world.name == "plugin").expect("the world is there").1;
        let items = if exported { &world.exports } else { &world.imports };
        items.iter().filter_map(|(key, item)| match (key, item) {
            (WorldKey::Interface(id), WorldItem::Interface { .. }) => Some(&self.resolve.interfaces[*id]),
            _ => None,
        })
    }

    /// The record of an interface that handles a list of events.
    fn event_of(&self, interface: &Interface) -> Option<TypeId> {
        let handle = interface.functions.get("handle").filter(|_| name(&interface.name).starts_with("on-"))?;
        let Type::Id(list) = handle.params.first()?.ty else { return None };
        match self.resolve.types[list].kind {
            TypeDefKind::List(Type::Id(record)) => Some(self.origin(record)),
            _ => None,
        }
    }

    /// The kinds, those of one family together.
    fn kinds(&self) -> Vec<Kind<'_>> {
        let mut kinds: Vec<Kind> = self.of_world(true).filter_map(|interface| self.kind(interface)).collect();
        let families: Vec<_> = kinds.iter().map(|kind| &kind.family.name).collect();
        let places: Vec<_> = families.iter().map(|family| families.iter().position(|other| other == family)).collect();
        let mut places = places.into_iter();
        kinds.sort_by_cached_key(|_| places.next());
        kinds
    }

    fn kind<'a>(&'a self, interface: &'a Interface) -> Option<Kind<'a>> {
        let definition = &self.resolve.types[self.event_of(interface)?];
        let (TypeDefKind::Record(record), TypeOwner::Interface(family)) = (&definition.kind, definition.owner) else {
            return None;
        };
        let name = name(&interface.name).trim_start_matches("on-");
        Some(Kind { name, record, definition, family: &self.resolve.interfaces[family] })
    }

    /// The type that a `use` brought in.
    fn origin(&self, mut id: TypeId) -> TypeId {
        while let TypeDefKind::Type(Type::Id(other)) = self.resolve.types[id].kind {
            id = other;
        }
        id
    }

    fn exports_of(&self, kind: &str) -> String {
        let filter = format!("filter-{kind}");
        match self.of_world(true).any(|interface| name(&interface.name) == filter) {
            true => format!("Handled by plugins that export `on-{kind}`, filtered by those that export `{filter}`."),
            false => format!("Handled by plugins that export `on-{kind}`."),
        }
    }

    /// The types of an event's own family that its fields are made of.
    fn parts(&self, page: &mut String, kind: &Kind) {
        let mut next: Vec<Type> = kind.record.fields.iter().map(|field| field.ty).collect();
        let mut shown = Vec::new();
        while !next.is_empty() {
            let Type::Id(id) = next.remove(0) else { continue };
            let id = self.origin(id);
            let definition = &self.resolve.types[id];
            match &definition.kind {
                TypeDefKind::Option(inner) | TypeDefKind::List(inner) => next.push(*inner),
                TypeDefKind::Record(_) | TypeDefKind::Enum(_) | TypeDefKind::Variant(_)
                    if !shown.contains(&id) && self.family(definition) == Some(name(&kind.family.name)) =>
                {
                    shown.push(id);
                    self.definition(page, id);
                    if let TypeDefKind::Record(record) = &definition.kind {
                        next.extend(record.fields.iter().map(|field| field.ty));
                    }
                }
                _ => {}
            }
        }
    }

    fn family(&self, definition: &TypeDef) -> Option<&str> {
        match definition.owner {
            TypeOwner::Interface(id) => self.resolve.interfaces[id].name.as_deref(),
            _ => None,
        }
    }

    /// A type with its own heading.
    fn definition(&self, page: &mut String, id: TypeId) {
        let definition = &self.resolve.types[id];
        if matches!(definition.kind, TypeDefKind::Type(Type::Id(_))) {
            return; // Only a name for what stands elsewhere.
        }
        _ = write!(page, "\n#### `{}`\n\n{}\n", name(&definition.name), text(&definition.docs));
        match &definition.kind {
            TypeDefKind::Type(ty) => _ = writeln!(page, "\nA `{}`.", self.wit(ty)),
            TypeDefKind::Record(record) if name(&definition.name) == "container" => self.container_table(page, record),
            TypeDefKind::Record(record) => self.table(page, record),
            TypeDefKind::Enum(cases) => {
                let names: Vec<_> = cases.cases.iter().map(|case| format!("`{}`", case.name)).collect();
                _ = writeln!(page, "\nOne of {}.", names.join(", "));
            }
            TypeDefKind::Variant(cases) => {
                page.push_str("\n| case | with | meaning |\n|---|---|---|\n");
                for case in &cases.cases {
                    let with = case.ty.map(|ty| format!("`{}`", self.wit(&ty))).unwrap_or_default();
                    _ = writeln!(page, "| `{}` | {with} | {} |", case.name, cell(&case.docs));
                }
            }
            _ => {}
        }
    }

    /// A container's fields, which have a form of their own in JSON, as its documentation says.
    fn container_table(&self, page: &mut String, record: &Record) {
        page.push_str("\n| field | type | meaning |\n|---|---|---|\n");
        for field in &record.fields {
            _ = writeln!(page, "| `{}` | `{}` | {} |", field.name, self.wit(&field.ty), cell(&field.docs));
        }
    }

    fn table(&self, page: &mut String, record: &Record) {
        page.push_str("\n| field | type | in JSON | meaning |\n|---|---|---|---|\n");
        for field in &record.fields {
            let json = match self.json(&field.ty) {
                json if json.is_empty() => "[its fields](#task)".to_owned(),
                json => format!("`{}`: {json}", field.name.replace('-', "_")),
            };
            _ = writeln!(page, "| `{}` | `{}` | {json} | {} |", field.name, self.wit(&field.ty), cell(&field.docs));
        }
    }

    fn functions(&self, page: &mut String, interface: &Interface) {
        _ = write!(page, "\n### `{}`\n\n{}\n", name(&interface.name), text(&interface.docs));
        for function in interface.functions.values() {
            _ = write!(page, "\n`{}`\n\n{}\n", self.signature(function), text(&function.docs));
        }
        // What the kinds use is shown with them.
        let shown = |id: &TypeId| {
            self.kinds().iter().any(|kind| Some(name(&kind.family.name)) == self.family(&self.resolve.types[*id]))
        };
        for id in interface.types.values().filter(|id| !shown(id)) {
            self.definition(page, *id);
        }
    }

    fn signature(&self, function: &Function) -> String {
        let parameters: Vec<_> = function.params.iter().map(|p| format!("{}: {}", p.name, self.wit(&p.ty))).collect();
        let result = function.result.map(|ty| format!(" -> {}", self.wit(&ty))).unwrap_or_default();
        format!("{}: func({}){result}", function.name, parameters.join(", "))
    }

    /// A type as written in WIT.
    fn wit(&self, ty: &Type) -> String {
        let Type::Id(id) = ty else { return format!("{ty:?}").to_lowercase() };
        let definition = &self.resolve.types[*id];
        let part = |ty: &Option<Type>| ty.map_or("_".to_owned(), |ty| self.wit(&ty));
        match (&definition.name, &definition.kind) {
            (Some(name), _) => name.clone(),
            (_, TypeDefKind::List(inner)) => format!("list<{}>", self.wit(inner)),
            (_, TypeDefKind::Option(inner)) => format!("option<{}>", self.wit(inner)),
            (_, TypeDefKind::Result(result)) => format!("result<{}, {}>", part(&result.ok), part(&result.err)),
            (_, TypeDefKind::Tuple(tuple)) => {
                format!("tuple<{}>", tuple.types.iter().map(|ty| self.wit(ty)).collect::<Vec<_>>().join(", "))
            }
            (_, kind) => panic!("the page has no words for a {}", kind.as_str()),
        }
    }

    /// A type's form in JSON; empty where the fields of a record stand in the place of the record.
    fn json(&self, ty: &Type) -> String {
        let id = match ty {
            Type::Bool => return "boolean".to_owned(),
            Type::String | Type::Char => return "string".to_owned(),
            Type::Id(id) => self.origin(*id),
            _ => return "number".to_owned(),
        };
        let definition = &self.resolve.types[id];
        match (definition.name.as_deref(), &definition.kind) {
            (Some("timestamp"), _) => "time".to_owned(),
            (Some("task"), _) => String::new(),
            (_, TypeDefKind::Type(other)) => self.json(other),
            (_, TypeDefKind::Enum(_)) => "string".to_owned(),
            (_, TypeDefKind::List(Type::Id(field))) if self.wit(&Type::Id(*field)) == "field" => "object".to_owned(),
            (_, TypeDefKind::List(inner)) => format!("array ({})", self.json(inner)),
            (_, TypeDefKind::Option(inner)) => match self.json(inner) {
                inner if inner.is_empty() => inner,
                inner => format!("{inner} or null"),
            },
            _ => "object".to_owned(),
        }
    }
}

fn name(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or_default()
}

fn text(docs: &Docs) -> &str {
    docs.contents.as_deref().unwrap_or_default().trim()
}

/// Documentation in one line, as a table's cell has to be.
fn cell(docs: &Docs) -> String {
    text(docs).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn sentence(docs: &Docs) -> String {
    let line = cell(docs);
    line.split_once(". ")
        .or(line.split_once(": "))
        .map_or(line.clone(), |(first, _)| format!("{}.", first.trim_end_matches('.')))
}
