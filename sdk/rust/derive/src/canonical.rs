//! How records and enums stand in memory by the component model's canonical layout: a record's fields in their order, each at a
//! multiple of its alignment, an enum as the number of its case.

use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::{Data, DeriveInput};

/// The most cases whose number is one byte.
const MAX_CASES: usize = 256;

pub fn derive(input: &DeriveInput) -> Tokens {
    let name = &input.ident;
    let body = match &input.data {
        Data::Struct(data) => {
            let fields = data.fields.iter().map(|field| {
                let (ident, ty) = (&field.ident, &field.ty);
                quote! {
                    let at = end.next_multiple_of(<#ty as ::wasmtime::component::ComponentType>::ALIGN32 as usize);
                    let end = at + <#ty as ::wasmtime::component::ComponentType>::SIZE32;
                    crate::wit::Canonical::put(&self.#ident, &mut bytes[at..end], address + at, memory)?;
                }
            });
            quote! {
                let end = 0usize;
                #(#fields)*
                let _ = end;
            }
        }
        Data::Enum(data) if data.variants.len() <= MAX_CASES => quote!(bytes[0] = *self as u8;),
        _ => quote!(compile_error!("only records and small enums are lowered")),
    };
    quote! {
        #[automatically_derived]
        impl crate::wit::Canonical for #name {
            fn put<T>(
                &self,
                bytes: &mut [u8],
                address: usize,
                memory: &mut crate::wit::Memory<'_, T>,
            ) -> ::wasmtime::Result<()> {
                #body
                ::core::result::Result::Ok(())
            }
        }
    }
}
