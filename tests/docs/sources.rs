//! docs/sources.md: every source with its ladder, and on which kernels each rung was tested.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use eunomia_host::event::Kind;
use eunomia_host::source::{SOURCES, Source};

const INTRODUCTION: &str = "\
# Sources

A source is a set of BPF programs and the kernel hooks that they are attached to. Each has a ladder of hooks, best first. The
host takes the best that this kernel really grants: it loads and attaches it, and believes no version number. `eunomia-host
sources` shows what came of that here: the hook taken, what it cannot see, and why not a better one; with `--verbose` also
the last lines of the kernel's verifier where it refused a program, and with `--json` the same for programs. The ready line
says it too. `--hooks HOOK,...` leaves all other hooks out, for one run or for `eunomia-host sources`.

| hook | what it is |
|---|---|
| `fentry` | programs on the entry and return of kernel functions (fentry, fexit), called directly: needs BPF trampolines |
| `kprobe` | the same by breakpoints (kprobe, kretprobe): slower, and needs no trampolines |
| `tp_btf` | tracepoints, with the kernel's own types |
| `raw_tp` | the same tracepoints, without these types |
| `tp` | the same again, by the records that tracefs describes: tracefs has to be mounted |

`tracepoint` stands for the last three. They see the same, and differ in what they need and cost.

A source that no hook can be had for is said to have failed, with the reason for each hook and the plugins that get none of its
events. The others run, and the ready line says `degraded`.

## io_uring

What a program has io_uring do is no system call of its own. So the source `syscall` sees the calls that drive the ring, and not
what they do; sources that are attached to system calls, by their tracepoints, do not see it either. Hooks on the functions that
do the work see it: that is why they stand higher. What each hook misses is said below.

## Kernels with full preemption

Kernels built for or started with full preemption (`preempt=full`; all newer ones for x86-64) may interrupt BPF programs to run
another thread, and as long as one is interrupted they skip it for all other threads of that CPU. In a storm of calls by more
threads than CPUs this was a quarter of all calls on Linux 7.2 by `tp_btf` and `raw_tp`, and a thousandth by `tp`. The kernel counts
it, and so does the host: the summary has it under `lost`, as `skipped`, and the log says it. It is the most that can be missing,
for not every run of a program makes an event.

By `tp` a run is also left out where an interrupt sends the event in the middle of another program, on every kernel: the end of a
connection that falls into the return of a call. That is rare, and counted in the same way.

So the host finds out whether this kernel interrupts programs on tracepoints (those before Linux 7 do not), and then takes `tp`,
which forbids it, before `tp_btf` and `raw_tp`. On a kernel with full preemption `tp` or a tracepoint that it does not interrupt also
stands before `fentry` where that sees no more. Where debugfs is not mounted, a kernel that can change its preemption while it runs
counts as one with full preemption.

## Reads and writes by kprobes

The source `files` has no rung `kprobe`. The kernel follows only a few returns of a function at the same time (ten, or two for
each CPU if that is more), and a read may wait for ever: a handful of idle terminals would hide the reads of all others.
";

const TESTED: &str = "\
## Tested

What the tests of `make test-vm` found exact (or short by no more than the kernel says it skipped), on kernels as Debian ships them, in virtual machines. Every test runs by every hook
of its source; `all` means every kind of event. The newest kernel moves with Debian's.

";

/// The page. What was tested is taken from lines of kernel, source, hook and kind, or else from the page as it is.
pub fn page(found: &str, covered: Option<&str>) -> String {
    let mut page = INTRODUCTION.to_owned();
    for source in SOURCES {
        ladder(&mut page, source);
    }
    let before = found.split_once(TESTED).map(|(_, table)| table.to_owned());
    _ = write!(page, "\n{TESTED}");
    page + &covered.map(table).or(before).unwrap_or_default()
}

fn ladder(page: &mut String, source: &Source) {
    let kinds: Vec<_> = source.kinds().iter().map(|kind| format!("`{kind}`")).collect();
    _ = writeln!(page, "\n## {}\n\n{}.\n\n| hook | misses |\n|---|---|", source.name, kinds.join(", "));
    for rung in source.rungs {
        let misses = if rung.misses.is_empty() { "nothing known" } else { rung.misses };
        _ = writeln!(page, "| `{}` | {misses} |", rung.hook);
    }
}

fn table(covered: &str) -> String {
    let mut cells: BTreeMap<[&str; 3], BTreeSet<&str>> = BTreeMap::new();
    let mut kernels = BTreeSet::new();
    for line in covered.lines() {
        let [kernel, source, hook, kind] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let number = |part: &str| part.parse::<u32>().unwrap();
        let (major, minor) = kernel.split_once('.').unwrap();
        kernels.insert((number(major), number(minor), kernel));
        cells.entry([source, hook, kernel]).or_default().insert(kind);
    }
    let head: Vec<_> = kernels.iter().map(|(_, _, kernel)| *kernel).collect();
    let mut table = format!("| source | hook | {} |\n|---|---|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for source in SOURCES {
        let all: BTreeSet<_> = source.kinds().iter().map(Kind::name).collect();
        for rung in source.rungs {
            let cell = |kernel: &&str| match cells.get(&[source.name, rung.hook, kernel]) {
                Some(kinds) if *kinds == all => "all".to_owned(),
                Some(kinds) => kinds.iter().copied().collect::<Vec<_>>().join(", "),
                None => "-".to_owned(),
            };
            let row: Vec<_> = head.iter().map(cell).collect();
            _ = writeln!(table, "| {} | `{}` | {} |", source.name, rung.hook, row.join(" | "));
        }
    }
    table
}
