//! The names of system calls: each way to make a call has its own table.

use syscalls::{x86, x86_64};

use crate::wit::syscall::Abi;

/// The x32 calls that have numbers of their own: those whose arguments the 64-bit ones could not read. Source: the kernel's
/// arch/x86/entry/syscalls/syscall_64.tbl.
const X32: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

/// The number of the first of them.
const FIRST_X32: u32 = 512;

/// How like a name another one must be to be what was meant, and how many such names are told.
const LIKENESS: f64 = 0.7;
const MOST_LIKE: usize = 3;

/// The name of a call; none where the table has no such number.
pub fn name(abi: Abi, number: u32) -> Option<&'static str> {
    let index = number as usize;
    let native = || x86_64::Sysno::new(index).map(|call| call.name());
    match abi {
        Abi::Native => native(),
        Abi::X32 if number >= FIRST_X32 => X32.get((number - FIRST_X32) as usize).copied(),
        Abi::X32 => native(),
        Abi::Compat => x86::Sysno::new(index).map(|call| call.name()),
    }
}

/// The number of a call; none where the table has no such name.
pub fn number(abi: Abi, name: &str) -> Option<u32> {
    let native = || name.parse::<x86_64::Sysno>().ok().map(|call| call as u32);
    match abi {
        Abi::Native => native(),
        Abi::X32 => match (FIRST_X32..).zip(X32).find(|(_, other)| *other == name) {
            Some((number, _)) => Some(number),
            None => native(),
        },
        Abi::Compat => name.parse::<x86::Sysno>().ok().map(|call| call as u32),
    }
}

/// Words of a set of calls, per table: numbers up to 1023.
const CALL_WORDS: usize = 16;

/// A set of system calls: a bit for each number of each table, in the order of the cases of `abi`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct CallSet([[u64; CALL_WORDS]; 3]);

impl CallSet {
    /// Every call.
    pub const ALL: CallSet = CallSet([[u64::MAX; CALL_WORDS]; 3]);

    /// The calls with these names, however they are made.
    ///
    /// # Errors
    /// A name that no table has, with the names most like it.
    pub fn named(names: &[String]) -> Result<CallSet, String> {
        let mut set = CallSet::default();
        for name in names {
            let mut known = false;
            for abi in [Abi::Native, Abi::Compat, Abi::X32] {
                if let Some(number) = number(abi, name) {
                    known = true;
                    set.0[abi as usize][number as usize / 64] |= 1 << (number % 64);
                }
            }
            if !known {
                return Err(unknown(name));
            }
        }
        Ok(set)
    }

    /// Whether no call is in it.
    pub fn is_empty(&self) -> bool {
        *self == CallSet::default()
    }

    /// Whether a call is in it. Numbers beyond every table share the last bit, as in the kernel.
    pub fn has(&self, abi: Abi, number: u32) -> bool {
        let bit = (number as usize).min(64 * CALL_WORDS - 1);
        self.0[abi as usize][bit / 64] & (1 << (bit % 64)) != 0
    }

    /// What is in either.
    #[must_use]
    pub fn or(mut self, other: &CallSet) -> CallSet {
        self.0.iter_mut().flatten().zip(other.words()).for_each(|(word, other)| *word |= other);
        self
    }

    /// Its words, table by table.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flatten().copied()
    }
}

/// What to say of a name that no table has.
fn unknown(name: &str) -> String {
    let all = x86_64::Sysno::iter().map(|call| call.name()).chain(x86::Sysno::iter().map(|call| call.name()));
    let mut like: Vec<(f64, &str)> = all.map(|other| (strsim::jaro_winkler(name, other), other)).collect();
    like.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    like.dedup();
    let like: Vec<_> =
        like.into_iter().take(MOST_LIKE).filter(|(likeness, _)| *likeness > LIKENESS).map(|(_, name)| name).collect();
    let hint = if like.is_empty() { "see syscalls(2)".to_owned() } else { format!("like it are {}", like.join(", ")) };
    format!("no system call is named '{name}'; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_has_its_own_numbers() {
        assert_eq!((name(Abi::Native, 110), number(Abi::Native, "getppid")), (Some("getppid"), Some(110)));
        assert_eq!((name(Abi::Compat, 64), number(Abi::Compat, "getppid")), (Some("getppid"), Some(64)));
        assert_eq!((name(Abi::X32, 521), number(Abi::X32, "ptrace")), (Some("ptrace"), Some(521)));
        assert_eq!((name(Abi::X32, 547), name(Abi::X32, 548)), (Some("pwritev2"), None));
        assert_eq!((name(Abi::Native, 9999), number(Abi::Native, "getpppid")), (None, None));
    }

    #[test]
    fn a_set_has_the_calls_named_however_they_are_made() {
        let names = |names: &[&str]| CallSet::named(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let set = names(&["ptrace"]).unwrap().or(&names(&["socketcall"]).unwrap());
        assert!(set.has(Abi::Native, 101) && set.has(Abi::Compat, 26) && set.has(Abi::X32, 521));
        assert!(set.has(Abi::Compat, 102), "socketcall is a 32-bit call alone");
        assert!(!set.has(Abi::Native, 102) && !set.has(Abi::Native, 5_000));
        assert!(CallSet::ALL.has(Abi::X32, 0) && set.words().count() == 3 * CALL_WORDS);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let error = CallSet::named(&["opennat".to_owned()]).unwrap_err();
        assert!(error.contains("'opennat'") && error.contains("openat"), "{error}");
        let error = CallSet::named(&["\u{1f980}".to_owned()]).unwrap_err();
        assert!(error.contains("syscalls(2)"), "{error}");
    }
}
