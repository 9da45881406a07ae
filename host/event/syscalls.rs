//! The names of system calls: each way to make a call has its own table.

use syscalls::{x86, x86_64};

use crate::wit::syscall::Abi;

/// The name of a call; none where the table has no such number.
pub fn name(abi: Abi, number: u32) -> Option<&'static str> {
    let number = number as usize;
    match abi {
        Abi::Native | Abi::X32 => x86_64::Sysno::new(number).map(|call| call.name()),
        Abi::Compat => x86::Sysno::new(number).map(|call| call.name()),
    }
}

/// The number of a call; none where the table has no such name.
pub fn number(abi: Abi, name: &str) -> Option<u32> {
    match abi {
        Abi::Native | Abi::X32 => name.parse::<x86_64::Sysno>().ok().map(|call| call as u32),
        Abi::Compat => name.parse::<x86::Sysno>().ok().map(|call| call as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_has_its_own_numbers() {
        assert_eq!((name(Abi::Native, 110), number(Abi::Native, "getppid")), (Some("getppid"), Some(110)));
        assert_eq!((name(Abi::Compat, 64), number(Abi::Compat, "getppid")), (Some("getppid"), Some(64)));
        assert_eq!((name(Abi::Native, 9999), number(Abi::Native, "getpppid")), (None, None));
    }
}
