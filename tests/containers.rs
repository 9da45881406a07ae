//! Which container an event happened in, told of real engines' containers.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use support::can_load_bpf;
use support::engines::{Containerd, Docker, Podman, Runc};
use support::ground::Traces;

#[test]
fn engines_leave_nothing_behind_even_after_a_panic() {
    if !can_load_bpf() {
        return;
    }
    let mut traces: Vec<Traces> = vec![];
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut docker = Docker::start();
        docker.run(&["--name", "web"], &["sleep", "600"]);
        let mut containerd = Containerd::start();
        containerd.run("eunomia-left", &["sleep", "600"]);
        let mut podman = Podman::start();
        podman.run("web", &["sleep", "600"]);
        let mut runc = Runc::new();
        runc.run("eunomia-left-runc", None, &["sleep", "600"]);
        traces.extend([&docker.ground, &containerd.ground, &podman.ground, &runc.ground].map(|one| one.traces.clone()));
        for one in &traces {
            for kind in ["process", "cgroup"] {
                assert!(one.left().iter().any(|left| left.starts_with(kind)), "a {kind} is among {:?}", one.left());
            }
        }
        std::panic::resume_unwind(Box::new("as a failed test does"));
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"as a failed test does"), "the engines ran");
    for one in traces {
        assert_eq!(one.left(), Vec::<String>::new());
    }
}
