//! Paths as engines make them, and paths that only look like them.

use eunomia_plugin::containers::Engine;

use super::{Found, Hint, recognise};

const ID: &str = "04c0ab3107af6dab383520da34c3ffa3894ca168a0bc6b116defb1dce243c8dc";
const INNER: &str = "f8043ee548b4b740c2df06eb8baf1b84e94f032c67a5bb69a075c6ccf69e9de6";
const POD: &str = "7d9a2c1e-4b0f-4b53-9d0e-0123456789ab";
const POD_: &str = "7d9a2c1e_4b0f_4b53_9d0e_0123456789ab";

/// `ID`, `INNER`, `POD` and `POD_` stand for themselves in a pattern.
fn path(pattern: &str) -> String {
    pattern.replace("INNER", INNER).replace("POD_", POD_).replace("POD", POD).replace("ID", ID)
}

fn nobody(_: Hint) -> bool {
    false
}

fn find(pattern: &str) -> Option<Found> {
    recognise(&path(pattern), nobody)
}

#[test]
fn containers_by_the_paths_that_engines_make() {
    use Engine::*;
    for (pattern, engine) in [
        ("/docker/ID", Docker),
        ("/system.slice/docker-ID.scope", Docker),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", Docker),
        ("/ecs/0123456789abcdef0123456789abcdef/ID", Docker),
        ("/system.slice/cri-containerd-ID.scope", Containerd),
        ("/system.slice/nerdctl-ID.scope", Containerd),
        ("/system.slice/containerd.service/system.slice:cri-containerd:ID", Containerd),
        ("/system.slice/crio-ID.scope", Crio),
        ("/machine.slice/libpod-ID.scope", Podman),
        ("/libpod_parent/libpod-ID", Podman),
        ("/libpod_parent/INNER/libpod-ID", Podman),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", Podman),
        ("/machine.slice/machine-libpod_pod_INNER.slice/libpod-ID.scope", Podman),
        ("/system.slice/web.service/libpod-payload-ID", Podman),
        ("/ID", Runc),
        ("/system.slice/runc-ID.scope", Runc),
        ("/my-own-parent/ID", Unknown),
        ("/my.slice/mine-ID.scope", Unknown),
    ] {
        let found = find(pattern).unwrap_or_else(|| panic!("{pattern} is a container"));
        assert_eq!((found.engine, found.id.as_str()), (engine, ID), "{pattern}");
        assert_eq!((found.pod, found.parents), (None, vec![]), "{pattern}");
    }
}

#[test]
fn names_that_people_gave() {
    use Engine::*;
    for (path, engine, id) in [
        ("/lxc.payload.web", Lxc, "web"),
        ("/lxc.payload/web", Lxc, "web"),
        ("/lxc.payload.project_web-1.2", Lxc, "project_web-1.2"),
        ("/lxc/100", Lxc, "100"),
        ("/machine.slice/machine-lxc\\x2d4711\\x2dweb.scope", Lxc, "lxc-4711-web"),
        ("/machine.slice/machine-debian\\x2d12.scope", Nspawn, "debian-12"),
        ("/machine.slice/systemd-nspawn@web.service", Nspawn, "web"),
        ("/machine.slice/systemd-nspawn@my\\x2dweb.service", Nspawn, "my-web"),
        ("/system.slice/runc-web.scope", Runc, "web"),
    ] {
        let found = recognise(path, nobody).unwrap_or_else(|| panic!("{path} is a container"));
        assert_eq!((found.engine, found.id.as_str()), (engine, id), "{path}");
    }
}

#[test]
fn names_that_the_path_does_not_give_away_are_asked_for() {
    let known = |hint: Hint| match hint {
        Hint::Runc { id } => id == "web",
        Hint::Containerd { namespace, id } => {
            (namespace, id) == ("default", "web") || (namespace, id) == ("a-b", "c-d")
        }
    };
    let of = |path| recognise(path, known).map(|found| (found.engine, found.id));
    assert_eq!(of("/web"), Some((Engine::Runc, "web".into())));
    assert_eq!(of("/init"), None);
    assert_eq!(of("/default/web"), Some((Engine::Containerd, "web".into())));
    assert_eq!(of("/default/other"), None);
    assert_eq!(of("/system.slice/default-web.scope"), Some((Engine::Containerd, "web".into())));
    assert_eq!(of("/system.slice/a-b-c-d.scope"), Some((Engine::Containerd, "c-d".into())));
    assert_eq!(of("/below/default/web"), None, "containerd's namespaces are at the top");
}

#[test]
fn pods_of_all_classes_by_both_drivers() {
    for (pattern, engine) in [
        ("/kubepods/podPOD/ID", Engine::Unknown),
        ("/kubepods/burstable/podPOD/ID", Engine::Unknown),
        ("/kubepods/besteffort/podPOD/ID", Engine::Unknown),
        ("/kubepods/besteffort/podPOD/crio-ID", Engine::Crio),
        ("/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope", Engine::Containerd),
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/crio-ID.scope", Engine::Crio),
        ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/docker-ID.scope", Engine::Docker),
        ("/system.slice/containerd.service/kubepods-burstable-podPOD_.slice:cri-containerd:ID", Engine::Containerd),
    ] {
        let found = find(pattern).unwrap_or_else(|| panic!("{pattern} is a container"));
        assert_eq!((found.engine, found.id.as_str(), found.pod.as_deref()), (engine, ID, Some(POD)), "{pattern}");
        assert!(found.parents.is_empty(), "{pattern}");
    }
    // A pod that the node's own files define has an id without dashes.
    let uid = "0123456789abcdef0123456789abcdef";
    let found = find(&format!("/kubepods/burstable/pod{uid}/ID")).unwrap();
    assert_eq!(found.pod.as_deref(), Some(uid));
}

#[test]
fn nested_containers_name_those_around_them() {
    let found = find("/docker/ID/docker/INNER").unwrap();
    assert_eq!((found.engine, found.id.as_str(), found.parents), (Engine::Docker, INNER, vec![ID.to_owned()]));
    let found = find("/lxc.payload.web/system.slice/docker-ID.scope/docker/INNER").unwrap();
    assert_eq!((found.id.as_str(), found.parents), (INNER, vec![ID.to_owned(), "web".to_owned()]));
    let kind = "/docker/ID/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                kubelet-kubepods-burstable-podPOD_.slice/cri-containerd-INNER.scope";
    let found = find(kind).unwrap();
    assert_eq!(
        (found.engine, found.pod.as_deref(), found.parents),
        (Engine::Containerd, Some(POD), vec![ID.to_owned()])
    );
    let found = find("/kubepods/podPOD/ID/docker/INNER").unwrap();
    assert_eq!(found.pod, None, "the pod is the outer container's");
}

#[test]
fn near_misses_are_no_containers() {
    for pattern in [
        "",
        "/",
        "/docker",
        "/docker/buildx/4kqn1m9b1v6u0z3xw5y7t2s8r",
        "/docker/0123456789ab",
        "/system.slice/docker.service",
        "/system.slice/docker.socket",
        "/system.slice/docker-notes.scope",
        "/home/docker-ID",
        "/docker-backup",
        "/docker/04C0AB3107AF6DAB383520DA34C3FFA3894CA168A0BC6B116DEFB1DCE243C8DC",
        "/user.slice/user-1000.slice/session-2.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-POD.scope",
        "/init.scope",
        "/machine.slice",
        "/machine.slice/libpod-conmon-ID.scope",
        "/machine.slice/machine-qemu\\x2d1\\x2ddebian.scope",
        "/elsewhere.slice/machine-web.scope",
        "/libpod_parent",
        "/libpod_parent/conmon",
        "/libpod_parent/ID",
        "/system.slice/crio-conmon-ID.scope",
        "/kubepods/burstable/podPOD/crio-conmon-ID",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice",
        "/kubepods/burstable/podPOD",
        "/lxc",
        "/lxc.monitor.web",
        "/lxc.monitor/web",
        "/lxc.payload.",
        "/lxc/web/init.scope",
        "/lxc.pivot",
        // Below a container: the registry finds the container around it.
        "/docker/ID/init.scope",
        "/machine.slice/libpod-ID.scope/container",
        "/machine.slice/systemd-nspawn@web.service/payload",
        "/lxc/100/ns",
    ] {
        assert_eq!(find(pattern), None, "{pattern}");
    }
    assert_eq!(recognise(&format!("/{}/{ID}", "x".repeat(5000)), nobody), None, "of absurd length");
}

#[test]
fn escapes_that_are_none_stay() {
    assert_eq!(super::unescape(r"a\x2db\x2"), r"a-b\x2");
    assert_eq!(super::unescape(r"\xzz\\x2d"), r"\xzz\-");
    assert_eq!(super::unescape("ä\\xff"), "ä\u{fffd}");
}
