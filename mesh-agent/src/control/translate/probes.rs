//! Probes and lifecycle hooks: the ports of a pod that its kubelet connects to.
//!
//! Place in the walk: read with the pod. Must not know: who the kubelet is, policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::object::Object;
use crate::mesh::facts::Rejection;

/// The ports that liveness, readiness and startup probes and HTTP lifecycle hooks of a pod at `addrs` name.
///
/// Init containers count when they are restartable: the kubelet probes no others. A port that cannot be resolved is
/// reported, and opens nothing.
pub(super) fn ports(
    object: &Object,
    spec: &api::PodSpec,
    addrs: &[IpAddr],
    rejections: &mut Vec<Rejection>,
) -> BTreeSet<u16> {
    let mut found = Found {
        object,
        addrs,
        rejections,
        ports: BTreeSet::new(),
    };
    for (i, container) in spec.containers.iter().enumerate() {
        found.container(container, &format!("spec.containers[{i}]"));
    }
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        if container.restart_policy.as_deref() == Some("Always") {
            found.container(container, &format!("spec.initContainers[{i}]"));
        }
    }
    found.ports
}

struct Found<'a> {
    object: &'a Object,
    addrs: &'a [IpAddr],
    rejections: &'a mut Vec<Rejection>,
    ports: BTreeSet<u16>,
}

impl Found<'_> {
    fn container(&mut self, container: &api::Container, at: &str) {
        let probes = [
            ("livenessProbe", container.liveness_probe.as_ref()),
            ("readinessProbe", container.readiness_probe.as_ref()),
            ("startupProbe", container.startup_probe.as_ref()),
        ];
        for (name, probe) in probes {
            if let Some(probe) = probe {
                self.probe(container, probe, &format!("{at}.{name}"));
            }
        }
        let lifecycle = container.lifecycle.as_ref();
        let hooks = [
            (
                "postStart",
                lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()),
            ),
            (
                "preStop",
                lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()),
            ),
        ];
        for (name, hook) in hooks {
            if let Some(get) = hook.and_then(|hook| hook.http_get.as_ref()) {
                let at = format!("{at}.lifecycle.{name}.httpGet");
                self.port(container, get.host.as_deref(), &get.port, &at);
            }
        }
    }

    fn probe(&mut self, container: &api::Container, probe: &api::Probe, at: &str) {
        if let Some(get) = &probe.http_get {
            self.port(
                container,
                get.host.as_deref(),
                &get.port,
                &format!("{at}.httpGet"),
            );
        }
        if let Some(tcp) = &probe.tcp_socket {
            let at = format!("{at}.tcpSocket");
            self.port(container, tcp.host.as_deref(), &tcp.port, &at);
        }
        if let Some(grpc) = &probe.grpc {
            let at = format!("{at}.grpc");
            self.port(container, None, &IntOrString::Int(grpc.port), &at);
        }
    }

    /// A probe of another host says nothing about this pod's ports.
    fn port(&mut self, container: &api::Container, host: Option<&str>, port: &IntOrString, at: &str) {
        let is_here = host
            .filter(|host| !host.is_empty())
            .is_none_or(|host| host.parse().is_ok_and(|host: IpAddr| self.addrs.contains(&host)));
        if !is_here {
            return;
        }
        match resolve(container, port) {
            Ok(port) => {
                self.ports.insert(port);
            }
            Err(reason) => {
                let rejection = self.object.reject(&format!("{at}.port"), reason);
                self.rejections.push(rejection);
            }
        }
    }
}

/// As the kubelet does it: a name among the ports of the same container, else a number in a string.
fn resolve(container: &api::Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            ports
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok())
        }
    };
    let Some(number) = number else {
        return Err(
            "no port of this container has that name; plaintext from the node is not let in by it".to_owned(),
        );
    };
    u16::try_from(number)
        .ok()
        .filter(|number| *number != 0)
        .ok_or_else(|| format!("{number} is not between 1 and 65535"))
}
