//! Values in a plugin's memory, by the canonical layout. The engine's own lowering looks the memory up for each field of each event,
//! which was a third of what events with strings cost: here a list of records is made in one piece and copied at once.

use wasmtime::Result;
use wasmtime::component::__internal::wasmtime_environ::component::StringEncoding;
use wasmtime::component::__internal::{InterfaceType, LowerContext};
use wasmtime::component::Lower;

/// A plugin's memory, with its allocator.
pub type Memory<'a, T> = LowerContext<'a, T>;

/// A value that knows its bytes in a plugin's memory.
pub trait Canonical: Lower {
    /// Whether its bytes here are those there, so that a list of such is copied as it is.
    const FLAT: bool = false;

    /// Writes the value to `bytes`, of its size and all zero, which are to stand at `address`; what it points to, straight to memory.
    ///
    /// # Errors
    /// The plugin has no room, or its allocator fails.
    fn put<T>(&self, bytes: &mut [u8], address: usize, memory: &mut Memory<'_, T>) -> Result<()>;
}

/// Writes values side by side, from an address on.
///
/// # Errors
/// As `Canonical::put`.
pub fn put_all<'v, V: Canonical + 'v, T>(
    values: impl ExactSizeIterator<Item = &'v V>,
    address: usize,
    memory: &mut Memory<'_, T>,
) -> Result<()> {
    let mut bytes = vec![0; values.len() * V::SIZE32];
    for (index, (value, bytes)) in values.zip(bytes.chunks_exact_mut(V::SIZE32)).enumerate() {
        value.put(bytes, address + index * V::SIZE32, memory)?;
    }
    memory.as_slice_mut()[address..address + bytes.len()].copy_from_slice(&bytes);
    Ok(())
}

/// Where something stands, and how much of it there is.
fn put_pointer(bytes: &mut [u8], address: usize, length: usize) -> Result<()> {
    bytes[..4].copy_from_slice(&u32::try_from(address)?.to_le_bytes());
    bytes[4..].copy_from_slice(&u32::try_from(length)?.to_le_bytes());
    Ok(())
}

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl Canonical for $number {
            fn put<T>(&self, bytes: &mut [u8], _: usize, _: &mut Memory<'_, T>) -> Result<()> {
                bytes.copy_from_slice(&self.to_le_bytes());
                Ok(())
            }
        }
    )* };
}

numbers!(u8, u16, u32, u64, i32, i64);

impl Canonical for bool {
    fn put<T>(&self, bytes: &mut [u8], _: usize, _: &mut Memory<'_, T>) -> Result<()> {
        bytes[0] = u8::from(*self);
        Ok(())
    }
}

impl Canonical for String {
    fn put<T>(&self, bytes: &mut [u8], address: usize, memory: &mut Memory<'_, T>) -> Result<()> {
        if !matches!(memory.options().string_encoding, StringEncoding::Utf8) {
            // The engine knows how other strings are made. What it writes there is read back, to be written with the rest.
            self.linear_lower_to_memory(memory, InterfaceType::String, address)?;
            bytes.copy_from_slice(&memory.as_slice_mut()[address..address + bytes.len()]);
            return Ok(());
        }
        let text = memory.realloc(0, 0, 1, self.len())?;
        memory.as_slice_mut()[text..text + self.len()].copy_from_slice(self.as_bytes());
        put_pointer(bytes, text, self.len())
    }
}

impl<V: Canonical> Canonical for Vec<V> {
    fn put<T>(&self, bytes: &mut [u8], _: usize, memory: &mut Memory<'_, T>) -> Result<()> {
        let list = memory.realloc(0, 0, V::ALIGN32, self.len() * V::SIZE32)?;
        put_all(self.iter(), list, memory)?;
        put_pointer(bytes, list, self.len())
    }
}

impl<V: Canonical> Canonical for Option<V> {
    fn put<T>(&self, bytes: &mut [u8], address: usize, memory: &mut Memory<'_, T>) -> Result<()> {
        let Some(value) = self else { return Ok(()) };
        bytes[0] = 1;
        let at = V::ALIGN32 as usize;
        value.put(&mut bytes[at..at + V::SIZE32], address + at, memory)
    }
}
