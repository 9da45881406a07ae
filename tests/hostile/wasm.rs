//! Components in the binary format, made to be hard to compile or to be refused.

/// What a component begins with.
pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], leb(content.len()).as_slice(), content].concat()
}

/// A component of one core module with one function, of this body.
fn of_one_function(body: &[u8]) -> Vec<u8> {
    let code = [&[1], leb(body.len()).as_slice(), body].concat();
    let module =
        [b"\0asm\x01\0\0\0".as_slice(), &section(1, b"\x01\x60\0\0"), &section(3, b"\x01\0"), &section(10, &code)];
    [COMPONENT, &section(1, &module.concat())].concat()
}

/// A valid component of less than 20 KiB that takes minutes to compile: loops within loops, and in the innermost all of
/// many variables change.
pub fn slow_to_compile() -> Vec<u8> {
    const LOOPS: usize = 1000;
    const VARIABLES: usize = 1000;
    let mut body = [&[1], leb(VARIABLES).as_slice(), &[0x7e]].concat();
    body.extend([0x03, 0x40].repeat(LOOPS));
    for variable in 0..VARIABLES {
        // variable = variable + another
        body.push(0x20);
        body.extend(leb(variable));
        body.push(0x20);
        body.extend(leb((variable * 7 + 1) % VARIABLES));
        body.extend([0x7c, 0x21]);
        body.extend(leb(variable));
    }
    for level in 0..LOOPS {
        // Again, if a variable is not 0.
        body.push(0x20);
        body.extend(leb(level));
        body.extend([0xa7, 0x0d, 0x00, 0x0b]);
    }
    body.push(0x0b);
    of_one_function(&body)
}

/// A valid component of 4 MiB that takes more memory to compile than any plugin gets: one function of two million calls.
pub fn large_to_compile() -> Vec<u8> {
    let mut body = vec![0];
    body.extend([0x10, 0x00].repeat(2_000_000));
    body.push(0x0b);
    of_one_function(&body)
}

/// A component that imports an instance with one function `f`.
pub fn importing(name: &str) -> Vec<u8> {
    let types = b"\x07\x0e\x01B\x02\x01@\x00\x01\x00\x04\x00\x01f\x01\x00";
    let import = [&[1, 0], leb(name.len()).as_slice(), name.as_bytes(), &[5, 0]].concat();
    [COMPONENT, types.as_slice(), &section(10, &import)].concat()
}

/// A core module's section with one memory, of one page.
pub const MEMORY: &[u8] = b"\x05\x03\x01\0\x01";

/// A core module's section with one table, of one function.
pub const TABLE: &[u8] = b"\x04\x04\x01\x70\0\x01";

/// The component with so many core instances more, each of a module with these sections.
pub fn with_instances(component: &[u8], sections: &[u8], count: usize) -> Vec<u8> {
    let (mut rest, mut modules) = (&component[COMPONENT.len()..], 0);
    while let [id, tail @ ..] = rest {
        let bytes = tail.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let length = tail[..bytes].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
        modules += usize::from(*id == 1);
        rest = &tail[bytes + length..];
    }
    let module = [b"\0asm\x01\0\0\0", sections].concat();
    let instance = [&[0], leb(modules).as_slice(), &[0]].concat();
    let instances = [leb(count), instance.repeat(count)].concat();
    [component, &section(1, &module), &section(2, &instances)].concat()
}

/// The same component with other bytes: a section that only carries a name.
pub fn renamed(component: &[u8], name: &str) -> Vec<u8> {
    let content = [leb(name.len()).as_slice(), name.as_bytes()].concat();
    [component, &section(0, &content)].concat()
}

/// The component with another name, of the same length, wherever it has this one.
pub fn calling(component: &[u8], name: &str, other: &str) -> Vec<u8> {
    assert_eq!(name.len(), other.len(), "what stands behind it stays where it is");
    let (mut bytes, mut found) = (component.to_vec(), 0);
    for at in 0..=bytes.len() - name.len() {
        if bytes[at..].starts_with(name.as_bytes()) {
            bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "{name} is in it");
    bytes
}
