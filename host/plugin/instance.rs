//! One instance of a plugin: its memory, its exported functions, and calls into it within its bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, Instance as Linked, InstancePre, Lift, Lower, TypedFunc,
};
use wasmtime::{Store, UpdateDeadline};

use super::Settings;
use super::bounds::{Bounds, CallFuture, Fault};
use super::component::{Description, interface};
use super::epochs::Epochs;
use super::http::Http;
use super::life::CallCounts;
use super::limits::{self, Limiter, STATE_BYTES};
use super::loaded::Shared;
use super::lower::Run;
use super::services::{Outlets, State};
use crate::event::{CallSet, Kind, KindSet, Record, Rows, Visitor};

type StartFunc = TypedFunc<(String,), (Result<(), String>,)>;
type SelectFunc = TypedFunc<(), (Vec<String>,)>;
type RestoreFunc = TypedFunc<(Vec<u8>,), (Result<(), String>,)>;

/// An exported function that takes a run of events of one kind.
trait RunFunc<T>: Send + Sync {
    fn call<'a>(&'a self, store: &'a mut Store<State>, rows: Rows) -> CallFuture<'a, T>;
}

impl<R: Record> RunFunc<()> for TypedFunc<(Run<R>,), ()> {
    fn call<'a>(&'a self, store: &'a mut Store<State>, rows: Rows) -> CallFuture<'a, ()> {
        Box::pin(self.call_async(store, (Run::new(rows),)))
    }
}

impl<R: Record> RunFunc<Vec<bool>> for TypedFunc<(Run<R>,), (Vec<bool>,)> {
    fn call<'a>(&'a self, store: &'a mut Store<State>, rows: Rows) -> CallFuture<'a, Vec<bool>> {
        Box::pin(async { Ok(self.call_async(store, (Run::new(rows),)).await?.0) })
    }
}

/// An instance of a plugin.
pub(super) struct Instance {
    store: Store<State>,
    bounds: Bounds,
    linked: Linked,
    handles: KindSet,
    filters: KindSet,
    /// Those that were called so far: to look all of them up took a sixth of what an instance takes.
    handlers: BTreeMap<Kind, Box<dyn RunFunc<()>>>,
    keepers: BTreeMap<Kind, Box<dyn RunFunc<Vec<bool>>>>,
    on_tick: Option<TypedFunc<(u64, u64), ()>>,
    select_calls: Option<SelectFunc>,
    start: Option<StartFunc>,
    stop: Option<TypedFunc<(), ()>>,
    save: Option<TypedFunc<(), (Vec<u8>,)>>,
    restore: Option<RestoreFunc>,
}

/// Everything that an instance is made of, for as many instances in turn as it takes.
#[derive(Clone)]
pub(super) struct Blueprint {
    pub name: Arc<str>,
    /// Its number on the command line.
    pub argument: usize,
    pub linked: InstancePre<State>,
    /// Kept so that the next plugin with the same bytes finds it.
    pub shared: Arc<Shared>,
    pub description: Description,
    pub settings: Settings,
    pub http: Http,
    pub outlets: Outlets,
    pub counts: Arc<CallCounts>,
    pub epochs: Arc<Epochs>,
}

impl Blueprint {
    /// Makes an instance and starts it.
    pub async fn start(&self) -> Result<Instance> {
        let limiter = Limiter::new(&self.settings.limits, self.counts.clone());
        let limits = &self.settings.limits;
        let bounds = Bounds {
            deadline_ms: limits.deadline_ms,
            wall_ms: limits.wall_ms,
            epochs: self.epochs.clone(),
            counts: self.counts.clone(),
            output: self.outlets.output.clone(),
            refused: limiter.refused.clone(),
        };
        let (outlets, counts) = (self.outlets.clone(), self.counts.clone());
        let state = State::new(self.name.clone(), outlets, limiter, counts, (&self.settings, self.http.clone()))?;
        let mut store = Store::new(self.linked.engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits::bounded(limits.call_bytes));
        store.epoch_deadline_callback(|mut store| {
            let state = store.data_mut();
            state.slices_left = state.slices_left.saturating_sub(1);
            Ok(if state.slices_left == 0 { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        let linked = self.linked.clone();
        let linked = bounds
            .starting(&mut store, |store| Box::pin(linked.instantiate_async(store)))
            .await
            .context("it could not be instantiated")?;
        let mut instance = self.look_up(store, bounds, linked)?;
        self.shared.check(|| instance.look_all_up())?;
        if let Some(start) = instance.start {
            let config = self.settings.config.clone();
            let call =
                |store| -> CallFuture<'_, _> { Box::pin(async move { start.call_async(store, (config,)).await }) };
            let (result,) = instance
                .bounds
                .starting(&mut instance.store, call)
                .await
                .map_err(|fault| anyhow!("its start function failed: {fault}"))?;
            result.map_err(|reason| anyhow!("its start function says: {}", reason.escape_debug()))?;
        }
        Ok(instance)
    }

    fn look_up(&self, mut store: Store<State>, bounds: Bounds, linked: Linked) -> Result<Instance> {
        let description = &self.description;
        let (handles, filters) = (description.handles, description.filters);
        let (handlers, keepers) = Default::default();
        let on_tick = match description.ticks {
            true => Some(find(&mut store, &linked, "on-tick", "handle")?),
            false => None,
        };
        let select_calls = match description.selects_calls {
            true => Some(find(&mut store, &linked, "select-syscalls", "names")?),
            false => None,
        };
        let (start, stop) = match description.lives {
            true => {
                (Some(find(&mut store, &linked, "life", "start")?), Some(find(&mut store, &linked, "life", "stop")?))
            }
            false => (None, None),
        };
        let (save, restore) = match description.keeps_state {
            true => (
                Some(find(&mut store, &linked, "state", "save")?),
                Some(find(&mut store, &linked, "state", "restore")?),
            ),
            false => (None, None),
        };
        Ok(Instance {
            store,
            bounds,
            linked,
            handles,
            filters,
            handlers,
            keepers,
            on_tick,
            select_calls,
            start,
            stop,
            save,
            restore,
        })
    }
}

impl Instance {
    /// The system calls that it wants; none for all.
    pub async fn calls(&mut self) -> Result<Option<CallSet>> {
        let Some(names) = self.select_calls else { return Ok(None) };
        let call = |store| -> CallFuture<'_, _> { Box::pin(async move { names.call_async(store, ()).await }) };
        let (names,) = self
            .bounds
            .starting(&mut self.store, call)
            .await
            .map_err(|fault| anyhow!("its function that selects system calls failed: {fault}"))?;
        CallSet::named(&names).map(Some).map_err(|reason| anyhow!("it selects system calls, and {reason}"))
    }

    /// Whether it handles events of this kind.
    pub fn handles(&self, kind: Kind) -> bool {
        self.handles.has(kind)
    }

    /// Finds the functions of all kinds, or says which is not what its name says.
    fn look_all_up(&mut self) -> Result<()> {
        self.handles.iter().try_for_each(|kind| self.look_handler_up(kind))?;
        self.filters.iter().try_for_each(|kind| self.look_filter_up(kind))
    }

    fn look_handler_up(&mut self, kind: Kind) -> Result<()> {
        if !self.handlers.contains_key(&kind) {
            let find = FindHandler { store: &mut self.store, linked: &self.linked, kind };
            self.handlers.insert(kind, kind.visit(find)?);
        }
        Ok(())
    }

    fn look_filter_up(&mut self, kind: Kind) -> Result<()> {
        if !self.keepers.contains_key(&kind) {
            let find = FindFilter { store: &mut self.store, linked: &self.linked, kind };
            self.keepers.insert(kind, kind.visit(find)?);
        }
        Ok(())
    }

    /// What it has to tell the version that takes its place; none where it has no words for that.
    pub async fn save(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(save) = self.save else { return Ok(None) };
        let call = |store| -> CallFuture<'_, _> { Box::pin(async move { save.call_async(store, ()).await }) };
        let (state,) = self.bounds.starting(&mut self.store, call).await?;
        match state.len() <= STATE_BYTES {
            true => Ok(Some(state)),
            false => {
                Err(Fault::new(format!("its state has {} bytes, and at most {STATE_BYTES} are kept", state.len())))
            }
        }
    }

    /// Tells it what the version before it has saved.
    pub async fn restore(&mut self, state: Vec<u8>) -> Result<(), Fault> {
        let Some(restore) = self.restore else { return Ok(()) };
        let call = |store| -> CallFuture<'_, _> { Box::pin(async move { restore.call_async(store, (state,)).await }) };
        let (result,) = self.bounds.starting(&mut self.store, call).await?;
        result.map_err(|reason| {
            Fault::new(format!("it does not take over the state of the version before it: {}", reason.escape_debug()))
        })
    }

    /// Has a run of events handled.
    pub async fn handle(&mut self, rows: Rows) -> Result<(), Fault> {
        self.look_handler_up(rows.kind).map_err(Fault::of)?;
        let handler = &self.handlers[&rows.kind];
        self.store.data_mut().handles_alerts = rows.kind == Kind::Alert;
        let result = self.bounds.call(&mut self.store, |store| handler.call(store, rows)).await;
        self.store.data_mut().handles_alerts = false;
        result
    }

    /// Asks which events of a run pass: one answer per event.
    pub async fn keep(&mut self, rows: Rows) -> Result<Vec<bool>, Fault> {
        let events = rows.len();
        // It may stand in for another version, which filters more.
        if !self.filters.has(rows.kind) {
            return Ok(vec![true; events]);
        }
        self.look_filter_up(rows.kind).map_err(Fault::of)?;
        let filter = &self.keepers[&rows.kind];
        let kept = self.bounds.call(&mut self.store, |store| filter.call(store, rows)).await?;
        match kept.len() == events {
            true => Ok(kept),
            false => {
                Err(Fault::new(format!("its filter was asked about {events} events and gave {} answers", kept.len())))
            }
        }
    }

    /// Tells it that an interval has passed.
    pub async fn tick(&mut self, now: u64, interval: Duration) -> Result<(), Fault> {
        let Some(on_tick) = self.on_tick else { return Ok(()) };
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let call =
            |store| -> CallFuture<'_, ()> { Box::pin(async move { on_tick.call_async(store, (now, interval)).await }) };
        self.bounds.call(&mut self.store, call).await
    }

    /// Tells it that no more events come, and ends it.
    pub async fn stop(mut self) -> Result<(), Fault> {
        let result = match self.stop {
            Some(stop) => {
                let call = |store| -> CallFuture<'_, ()> { Box::pin(async move { stop.call_async(store, ()).await }) };
                self.bounds.starting(&mut self.store, call).await
            }
            None => Ok(()),
        };
        let print = self.store.data().print.clone();
        print.finish().await;
        result
    }
}

struct FindHandler<'a> {
    store: &'a mut Store<State>,
    linked: &'a Linked,
    kind: Kind,
}

impl Visitor for FindHandler<'_> {
    type Output = Result<Box<dyn RunFunc<()>>>;

    fn visit<R: Record>(self) -> Self::Output {
        let func: TypedFunc<(Run<R>,), ()> = find(self.store, self.linked, &format!("on-{}", self.kind), "handle")?;
        Ok(Box::new(func))
    }
}

struct FindFilter<'a> {
    store: &'a mut Store<State>,
    linked: &'a Linked,
    kind: Kind,
}

impl Visitor for FindFilter<'_> {
    type Output = Result<Box<dyn RunFunc<Vec<bool>>>>;

    fn visit<R: Record>(self) -> Self::Output {
        let name = format!("filter-{}", self.kind);
        let func: TypedFunc<(Run<R>,), (Vec<bool>,)> = find(self.store, self.linked, &name, "keep")?;
        Ok(Box::new(func))
    }
}

fn find<P, T>(store: &mut Store<State>, linked: &Linked, name: &str, function: &str) -> Result<TypedFunc<P, T>>
where
    P: ComponentNamedList + Lower,
    T: ComponentNamedList + Lift,
{
    let name = interface(name);
    let export: Option<ComponentExportIndex> = linked.get_export_index(&mut *store, None, &name);
    let index = export.and_then(|export| linked.get_export_index(&mut *store, Some(&export), function));
    ensure!(
        index.is_some(),
        "its export {name} lacks the function {function}; build it against this version's wit folder"
    );
    let index = index.expect("checked");
    linked.get_typed_func(&mut *store, index).map_err(|error| {
        anyhow!("its export {name}#{function} has another type than this host's: {error:#}; build it against this version's wit folder")
    })
}
