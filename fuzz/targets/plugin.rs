//! What the process does that compiles a plugin, here without giving up power: machine code or an error, of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    _ = eunomia_host::plugin::compile(bytes);
});
