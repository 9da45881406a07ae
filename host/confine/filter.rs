//! A seccomp filter made of the names of system calls.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use syscalls::Sysno;

/// What the kernel answers to a call that is not allowed: that there is no such call. Libraries try calls that they can do
/// without, such as clone3, and this is the answer that has them take another.
const REFUSED: u32 = rustix::io::Errno::NOSYS.raw_os_error().cast_unsigned();

/// Calls that are allowed: always, or only where one argument, under a mask, has a value.
pub(super) enum Allowed {
    Always(&'static [Sysno]),
    Where { call: Sysno, argument: u8, mask: u64, value: u64 },
}

impl Allowed {
    /// How many calls it is about.
    pub fn count(&self) -> usize {
        match self {
            Allowed::Always(calls) => calls.len(),
            Allowed::Where { .. } => 1,
        }
    }
}

/// Has the kernel refuse all other calls, to this thread and all that it starts.
pub(super) fn allow(calls: &[Allowed]) -> Result<()> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for allowed in calls {
        match allowed {
            Allowed::Always(calls) => rules.extend(calls.iter().map(|call| (i64::from(call.id()), vec![]))),
            Allowed::Where { call, argument, mask, value } => {
                let masked = SeccompCmpOp::MaskedEq(*mask);
                let condition = SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, masked, *value)?;
                rules.entry(i64::from(call.id())).or_default().push(SeccompRule::new(vec![condition])?);
            }
        }
    }
    let arch = std::env::consts::ARCH.try_into().map_err(|error| anyhow!("seccomp on this processor: {error}"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Errno(REFUSED), SeccompAction::Allow, arch)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
        .context("the kernel takes no seccomp filter; it needs CONFIG_SECCOMP_FILTER, as all distributions have it")
}
