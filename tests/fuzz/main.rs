//! Bytes that nobody thought of: what is in fuzz/corpus, changed at random but the same in each run, through the decoder,
//! the settings and the loader of plugins. None may panic, and none may be taken for more than it is.
//!
//! `EUNOMIA_FUZZ_SECONDS=600 cargo test --release --test fuzz` goes on for so long each, with other bytes every time. What it
//! finds is printed as a file's content in hexadecimal: put it into fuzz/corpus, and it is tried first from then on. `make fuzz` does
//! the same with cargo-fuzz, which knows what each change leads to, and takes ten minutes to build.

mod checks;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use eunomia_host::compile::Compiler;
use eunomia_host::event::Kind;
use eunomia_host::plugin::{Compiled, Grants, Limits, Runtime};

/// Rounds without EUNOMIA_FUZZ_SECONDS. Each plugin takes a process.
const QUICK_ROUNDS: usize = 100_000;
const QUICK_PLUGIN_ROUNDS: usize = 300;

/// The longest bytes that are made of shorter ones.
const MAX_BYTES: usize = 64 << 10;

/// What numbers tend to be where something is wrong.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// Changes bytes. Marsaglia's xorshift: good enough, and no dependency.
struct Mutator(u64);

impl Mutator {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    /// One of the corpus, changed in some places.
    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(8) {
                _ if bytes.is_empty() => bytes.push(self.next().to_le_bytes()[0]),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next().to_le_bytes()[0],
                2 => {
                    let number = EDGES[self.below(EDGES.len())].to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    bytes[at..at + width].copy_from_slice(&number[..width]);
                }
                3 => bytes.truncate(at),
                4 => drop(bytes.drain(at..(at + 1 + self.below(16)).min(bytes.len()))),
                5 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    let part = other[from..(from + 1 + self.below(64)).min(other.len())].to_vec();
                    bytes.splice(at..at, part);
                }
                6 => {
                    let part = bytes[at..(at + 1 + self.below(64)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => bytes.resize((bytes.len() + self.below(1024)).min(MAX_BYTES), self.next().to_le_bytes()[0]),
            }
        }
        bytes
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there is a corpus {name}");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Tries the corpus, then changes of it, and says how many there were.
fn fuzz(corpus: &[Vec<u8>], quick_rounds: usize, mut test: impl FnMut(&[u8])) -> usize {
    let mut test = |bytes: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| test(bytes))).is_err() {
            let shown: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{} bytes for fuzz/corpus: {shown}", bytes.len());
        }
    };
    corpus.iter().for_each(|bytes| test(bytes));
    let seconds = std::env::var("EUNOMIA_FUZZ_SECONDS").ok().map(|seconds| seconds.parse::<u64>().unwrap());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = if seconds.is_some() { u64::try_from(now.as_nanos()).unwrap() | 1 } else { 0x9e37_79b9_7f4a_7c15 };
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut mutator = Mutator(seed);
    let mut rounds = 0;
    while end.map_or(rounds < quick_rounds, |end| Instant::now() < end) {
        test(&mutator.mutate(corpus));
        rounds += 1;
    }
    rounds
}

#[test]
fn the_decoder_makes_an_event_or_an_error_of_any_bytes() {
    let mut corpus = corpus("decoder");
    // A long record of each kind: the number stands at its beginning. What is in it makes no sense.
    for kind in 0..u32::try_from(2 * Kind::ALL.len()).unwrap() {
        let body = (0..1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]);
        corpus.push(kind.to_le_bytes().into_iter().chain(body).collect());
        corpus.push([kind.to_le_bytes().as_slice(), &[0; 1024]].concat());
    }
    let (mut events, mut errors) = (0, 0);
    let rounds = fuzz(&corpus, QUICK_ROUNDS, |bytes| match checks::decoder(bytes) {
        true => events += 1,
        false => errors += 1,
    });
    println!("{rounds} rounds: {events} events, {errors} errors");
    assert!(events > rounds / 20 && errors > rounds / 20, "{events} events, {errors} errors: both are tried");
}

#[test]
fn settings_are_taken_or_refused_with_their_file() {
    let (mut taken, mut refused) = (0, 0);
    let rounds = fuzz(&corpus("settings"), QUICK_ROUNDS / 10, |bytes| match checks::settings(bytes) {
        Some(true) => taken += 1,
        Some(false) => refused += 1,
        None => {}
    });
    println!("{rounds} rounds: {taken} taken, {refused} refused");
    assert!(taken > rounds / 20 && refused > rounds / 20, "{taken} taken, {refused} refused: both are tried");
}

#[test]
fn the_loader_takes_or_refuses_any_plugin() {
    let runtime = Runtime::new(Compiler::new(Path::new(env!("CARGO_BIN_EXE_eunomia-host")), None)).unwrap();
    let mut corpus = corpus("plugin");
    corpus.push(fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/plugins/quiet.wasm")).unwrap());
    let (mut compiled, mut refused) = (0, 0);
    let rounds = fuzz(&corpus, QUICK_PLUGIN_ROUNDS, |bytes| match Compiled::new(&runtime, bytes, &Limits::default()) {
        Ok(plugin) => {
            _ = plugin.check(&Grants::default());
            compiled += 1;
        }
        Err(error) => {
            let error = format!("{error:#}");
            // A panic of the compiler, or a signal, is the end of its process alone; but it is a defect.
            assert!(
                !["defect", "panicked", "failed (", "ended by signal"].iter().any(|bad| error.contains(bad)),
                "{error}"
            );
            assert!(!error.contains(char::is_control), "{error}");
            refused += 1;
        }
    });
    println!("{rounds} rounds: {compiled} compiled, {refused} refused");
    assert!(compiled > 0 && refused > rounds / 20, "{compiled} compiled, {refused} refused: both are tried");
}
