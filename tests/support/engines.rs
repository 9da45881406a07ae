//! Real container engines for tests: each with folders, sockets and an image of its own.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::ground::{Ground, IMAGE, eventually, output};

/// A dockerd with its own containerd.
pub struct Docker {
    pub ground: Ground,
    daemon: Child,
}

impl Docker {
    pub fn start() -> Self {
        let ground = Ground::new("docker");
        let daemon = Self::launch(&ground);
        let docker = Docker { ground, daemon };
        docker.wait();
        let archive = docker.ground.image();
        output(docker.client().args(["load", "-q", "-i", &archive]));
        docker
    }

    fn launch(ground: &Ground) -> Child {
        _ = fs::remove_file(ground.path("docker.pid"));
        ground.daemon(
            Command::new("dockerd")
                .args(["--data-root", &ground.text("data"), "--exec-root", &ground.text("exec")])
                .args([
                    "--pidfile",
                    &ground.text("docker.pid"),
                    "-H",
                    &format!("unix://{}", ground.text("docker.sock")),
                ])
                .args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", "overlay2"])
                .arg("--live-restore"),
        )
    }

    fn wait(&self) {
        eventually("docker's answer", || {
            self.client().arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
        });
    }

    pub fn socket(&self) -> String {
        self.ground.text("docker.sock")
    }

    /// Where its containerd keeps the state of containers.
    pub fn state(&self) -> String {
        self.ground.text("exec/containerd/daemon")
    }

    pub fn client(&self) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket())).stdin(Stdio::null());
        command
    }

    /// Starts a container in the background; its id.
    pub fn run(&mut self, options: &[&str], command: &[&str]) -> String {
        self.make(&["run", "-d"], options, command)
    }

    /// Makes a container without starting it; its id.
    pub fn create(&mut self, options: &[&str], command: &[&str]) -> String {
        self.make(&["create"], options, command)
    }

    fn make(&mut self, how: &[&str], options: &[&str], command: &[&str]) -> String {
        let mut client = self.client();
        client.args(how).args(["--network", "none"]).args(options).arg(IMAGE).args(command);
        let id = output(&mut client);
        self.ground.traces.containers.push(id.clone());
        id
    }

    /// Calls the client.
    pub fn call(&self, args: &[&str]) -> String {
        output(self.client().args(args))
    }

    /// Kills the daemon, as a crash would. Its containers live on.
    pub fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// Starts it again after it was killed, and waits until it answers.
    pub fn restart(&mut self) {
        self.daemon = Self::launch(&self.ground);
        self.wait();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

/// A containerd without Kubernetes' interface.
pub struct Containerd {
    pub ground: Ground,
    daemon: Child,
}

impl Containerd {
    pub fn start() -> Self {
        let ground = Ground::new("containerd");
        let [root, state, socket] = ["root", "state", "containerd.sock"].map(|name| ground.text(name));
        let config = format!(
            "version = 2\nroot = '{root}'\nstate = '{state}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             [grpc]\naddress = '{socket}'\n[ttrpc]\naddress = '{socket}.ttrpc'\n"
        );
        fs::write(ground.path("config.toml"), config).unwrap();
        let daemon = ground.daemon(Command::new("containerd").args(["-c", &ground.text("config.toml")]));
        let containerd = Containerd { ground, daemon };
        eventually("containerd's answer", || {
            containerd.client().arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
        });
        let archive = containerd.ground.image();
        output(containerd.client().args(["images", "import", &archive]));
        containerd
    }

    pub fn state(&self) -> String {
        self.ground.text("state")
    }

    fn client(&self) -> Command {
        let mut command = Command::new("ctr");
        command.args(["-a", &self.ground.text("containerd.sock")]).stdin(Stdio::null());
        command
    }

    /// Starts a container in the background.
    pub fn run(&mut self, id: &str, command: &[&str]) {
        self.ground.traces.containers.push(id.to_owned());
        let image = format!("docker.io/library/{IMAGE}");
        let runc = self.ground.text("runc");
        output(self.client().args(["run", "-d", "--runc-root", &runc, &image, id]).args(command));
    }

    /// Waits until a container's first process has ended.
    pub fn wait(&self, id: &str) {
        eventually("the container's end", || {
            let tasks = output(self.client().args(["tasks", "ls"]));
            tasks.lines().any(|line| line.split_whitespace().next() == Some(id) && line.contains("STOPPED"))
        });
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

/// podman, and the service that offers its API.
pub struct Podman {
    pub ground: Ground,
    service: Child,
}

impl Podman {
    pub fn start() -> Self {
        let ground = Ground::new("podman");
        let socket = format!("unix://{}", ground.text("podman.sock"));
        let service = ground.daemon(Self::command(&ground).args(["system", "service", "-t", "0", &socket]));
        let podman = Podman { ground, service };
        let archive = podman.ground.image();
        output(Self::command(&podman.ground).args(["load", "-q", "-i", &archive]));
        eventually("podman's socket", || podman.ground.path("podman.sock").exists());
        podman
    }

    // What this needs where cgroups of both versions are mixed, and limits cannot be raised.
    fn command(ground: &Ground) -> Command {
        let mut command = Command::new("podman");
        command.args([
            "--root",
            &ground.text("root"),
            "--runroot",
            &ground.text("run"),
            "--tmpdir",
            &ground.text("tmp"),
        ]);
        command.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command
    }

    pub fn socket(&self) -> String {
        self.ground.text("podman.sock")
    }

    /// Where it lists its containers.
    pub fn storage(&self) -> String {
        self.ground.text("root/overlay-containers")
    }

    /// Starts a container in the background; its id.
    pub fn run(&mut self, name: &str, command: &[&str]) -> String {
        let mut client = Self::command(&self.ground);
        client.args(["run", "-d", "--network", "none", "--name", name]);
        client.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", IMAGE]).args(command);
        let id = output(&mut client);
        self.ground.traces.containers.push(format!("libpod-{id}"));
        id
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        _ = Self::command(&self.ground).args(["rm", "-fa", "-t", "0"]).stdout(Stdio::null()).status();
        _ = self.service.kill();
        _ = self.service.wait();
    }
}

/// runc by itself.
pub struct Runc {
    pub ground: Ground,
}

impl Runc {
    pub fn new() -> Self {
        let ground = Ground::new("runc");
        ground.rootfs();
        Runc { ground }
    }

    pub fn state(&self) -> String {
        self.ground.text("state")
    }

    /// Starts a container in the background, in the cgroup that runc chooses or this one.
    pub fn run(&mut self, id: &str, cgroup: Option<&str>, command: &[&str]) {
        self.ground.traces.containers.push(cgroup.map_or(id, |path| path.split('/').nth(2).unwrap_or(id)).to_owned());
        let bundle = self.ground.path(&format!("bundle-{id}"));
        fs::create_dir_all(&bundle).unwrap();
        output(Command::new("runc").arg("spec").current_dir(&bundle));
        let file = bundle.join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        spec["process"]["args"] = command.into();
        spec["process"]["terminal"] = false.into();
        spec["root"]["path"] = self.ground.text("rootfs").into();
        if let Some(cgroup) = cgroup {
            spec["linux"]["cgroupsPath"] = cgroup.into();
        }
        fs::write(&file, spec.to_string()).unwrap();
        let log = fs::File::create(bundle.join("log")).unwrap();
        // Its pipes would be the container's, and waiting for their end would be waiting for the container's.
        let mut runc = Command::new("runc");
        runc.args(["--root", &self.state(), "run", "-d", "--bundle"]).arg(&bundle).arg(id);
        let status = runc.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
        assert!(status.success(), "runc: {}", fs::read_to_string(bundle.join("log")).unwrap());
    }
}
