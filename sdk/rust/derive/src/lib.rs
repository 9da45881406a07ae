//! Derives for the records and enums that `bindgen!` and `generate!` make of the WIT package: their JSON form, for the host and for
//! plugins, and how they stand in a plugin's memory, for the host.

mod canonical;
mod json;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `serde::Serialize`, so that an event has the same JSON wherever it is printed, and its names come from the WIT files
/// alone:
///
/// - a field keeps its name, in snake_case, without the underscore that Rust adds to its own words;
/// - a `Timestamp` is an RFC 3339 string with nanoseconds, UTC;
/// - the fields of a record called `task` or `endpoints` stand beside those of the event;
/// - a `FlatComm`, which is two numbers, is the text that they hold;
/// - a list called `fields`, of names with values, is an object;
/// - an enum is its case's name in snake_case;
/// - a `Container` is what names it: id, engine, name and image, and pod and namespace where it has a pod.
///
/// The crate that derives needs `serde` (with its derive) and `humantime` among its dependencies.
#[proc_macro_derive(Json)]
pub fn json(input: TokenStream) -> TokenStream {
    json::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Derives the host's `Canonical`: a record's or an enum's bytes in a plugin's memory.
#[proc_macro_derive(Canonical)]
pub fn canonical(input: TokenStream) -> TokenStream {
    canonical::derive(&parse_macro_input!(input as DeriveInput)).into()
}
