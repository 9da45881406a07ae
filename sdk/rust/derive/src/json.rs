//! The JSON form of records and enums.

use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::{Data, DataEnum, DeriveInput, Field, Fields, GenericArgument, PathArguments, Type};

pub fn derive(input: &DeriveInput) -> Tokens {
    let name = &input.ident;
    let body = match &input.data {
        Data::Struct(_) if name == "FlatComm" => flat_comm(),
        Data::Struct(_) if name == "Container" => container(),
        Data::Struct(data) => record(&data.fields),
        Data::Enum(data) => cases(data),
        Data::Union(_) => quote!(compile_error!("WIT has no unions")),
    };
    let (generics, types, bounds) = input.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #generics ::serde::Serialize for #name #types #bounds {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
                #body
            }
        }
    }
}

/// A record is serialised as a struct of references to its fields, which says by serde's own attributes what is special.
fn record(fields: &Fields) -> Tokens {
    let shadows = fields.iter().map(|field| {
        let (ident, ty) = (&field.ident, &field.ty);
        let attribute = attribute(field);
        quote!(#attribute #ident: &'a #ty)
    });
    let idents: Vec<_> = fields.iter().map(|field| &field.ident).collect();
    let named = fields.iter().find(|field| is_named_list(field)).map(|field| {
        let ty = &field.ty;
        quote! {
            fn named<S: ::serde::Serializer>(fields: &&#ty, serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
                serializer.collect_map(fields.iter().map(|field| (&field.name, &field.value)))
            }
        }
    });
    quote! {
        #[allow(dead_code)]
        fn text(time: u64) -> ::std::string::String {
            let time = ::std::time::UNIX_EPOCH + ::std::time::Duration::from_nanos(time);
            ::humantime::format_rfc3339_nanos(time).to_string()
        }
        #[allow(dead_code)]
        fn time<S: ::serde::Serializer>(time: &&u64, serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
            serializer.serialize_str(&text(**time))
        }
        #[allow(dead_code, clippy::ref_option)]
        fn optional_time<S: ::serde::Serializer>(
            time: &&::core::option::Option<u64>,
            serializer: S,
        ) -> ::core::result::Result<S::Ok, S::Error> {
            ::serde::Serialize::serialize(&time.map(text), serializer)
        }
        #named
        #[derive(::serde::Serialize)]
        struct Shadow<'a> { #(#shadows,)* }
        ::serde::Serialize::serialize(&Shadow { #(#idents: &self.#idents,)* }, serializer)
    }
}

/// A name in two numbers, little-endian, ended by NUL. Bytes that are not UTF-8 stand as `\\xNN`.
fn flat_comm() -> Tokens {
    quote! {
        let bytes = [self.low.to_le_bytes(), self.high.to_le_bytes()].concat();
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut text = ::std::string::String::new();
        for chunk in name.utf8_chunks() {
            text.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| text.push_str(&::std::format!("\\x{byte:02x}")));
        }
        serializer.serialize_str(&text)
    }
}

/// What names a container. It stands beside every event of it, so there is no room for its labels.
fn container() -> Tokens {
    quote! {
        use ::serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("engine", &self.engine)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("image", &self.image)?;
        if let Some(pod) = &self.pod {
            map.serialize_entry("pod", &pod.name)?;
            map.serialize_entry("namespace", &pod.namespace)?;
        }
        map.end()
    }
}

fn attribute(field: &Field) -> Tokens {
    let is = |name: &str| last_segment(&field.ty).is_some_and(|segment| segment == name);
    if is("Timestamp") {
        quote!(#[serde(serialize_with = "time")])
    } else if inner(&field.ty).as_ref().and_then(last_segment).is_some_and(|segment| segment == "Timestamp") {
        quote!(#[serde(serialize_with = "optional_time")])
    } else if field.ident.as_ref().is_some_and(|ident| ident == "task" || ident == "endpoints") {
        quote!(#[serde(flatten)])
    } else if is_named_list(field) {
        quote!(#[serde(serialize_with = "named")])
    } else if let Some(name) =
        field.ident.as_ref().and_then(|ident| ident.to_string().strip_suffix('_').map(String::from))
    {
        // A name that is a word of Rust.
        quote!(#[serde(rename = #name)])
    } else {
        quote!()
    }
}

fn is_named_list(field: &Field) -> bool {
    field.ident.as_ref().is_some_and(|ident| ident == "fields")
        && last_segment(&field.ty).is_some_and(|name| name == "Vec")
}

fn cases(data: &DataEnum) -> Tokens {
    let has_payload = data.variants.iter().any(|variant| !variant.fields.is_empty());
    let lifetime = has_payload.then(|| quote!(<'a>));
    let shadows = data.variants.iter().map(|variant| {
        let (ident, payload) = (&variant.ident, variant.fields.iter().map(|field| &field.ty).next());
        payload.map_or(quote!(#ident), |ty| quote!(#ident(&'a #ty)))
    });
    let arms = data.variants.iter().map(|variant| {
        let ident = &variant.ident;
        match variant.fields.is_empty() {
            true => quote!(Self::#ident => Shadow::#ident),
            false => quote!(Self::#ident(value) => Shadow::#ident(value)),
        }
    });
    quote! {
        #[derive(::serde::Serialize)]
        #[serde(rename_all = "snake_case")]
        enum Shadow #lifetime { #(#shadows,)* }
        ::serde::Serialize::serialize(&match self { #(#arms,)* }, serializer)
    }
}

fn last_segment(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        _ => None,
    }
}

/// The type in an `Option`.
fn inner(ty: &Type) -> Option<Type> {
    let Type::Path(path) = ty else { return None };
    let segment = path.path.segments.last().filter(|segment| segment.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) => Some(inner.clone()),
        _ => None,
    }
}
