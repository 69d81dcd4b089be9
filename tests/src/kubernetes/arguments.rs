//! What the programs of a control plane are started with.
//!
//! It must not start them.

use std::net::Ipv4Addr;
use std::path::Path;

use super::{ControlPlane, pki};

/// The address of the Service `kubernetes`, the first of the range.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const SERVICES: &str = "10.96.0.0/16";

impl ControlPlane {
    pub(super) fn etcd_arguments(&self) -> Vec<String> {
        [
            format!("--data-dir={}", self.file("etcd")),
            format!("--listen-client-urls={}", self.etcd_url()),
            format!("--advertise-client-urls={}", self.etcd_url()),
            // One member has no peers.
            "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
            "--log-level=warn".to_owned(),
            // What is lost when the machine dies was for a test.
            "--unsafe-no-fsync".to_owned(),
        ]
        .into()
    }

    pub(super) fn api_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--secure-port={}", self.ports.api),
            format!("--etcd-servers={}", self.etcd_url()),
            format!("--tls-cert-file={}", self.file("server.crt")),
            format!("--tls-private-key-file={}", self.file("server.key")),
            format!("--token-auth-file={}", self.file(pki::TOKENS)),
            format!("--service-account-key-file={}", self.file("accounts.pub")),
            format!("--service-account-signing-key-file={}", self.file("accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            "--profiling=false".to_owned(),
        ];
        match self.ports.reach {
            None => arguments.extend([
                // A place is a network of its own, in which others may ask too; the machine's own is not for them.
                format!(
                    "--bind-address={}",
                    if self.place.is_some() {
                        "0.0.0.0"
                    } else {
                        "127.0.0.1"
                    }
                ),
                format!("--service-cluster-ip-range={SERVICES},fd00:96::/108"),
                "--authorization-mode=RBAC".to_owned(),
                // Of no interest where no Service `kubernetes` is; without it a default route would be needed.
                "--advertise-address=192.0.2.1".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
            ]),
            Some(addr) => arguments.extend([
                "--bind-address=0.0.0.0".to_owned(),
                format!("--service-cluster-ip-range={SERVICES}"),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                format!("--advertise-address={addr}"),
                "--allow-privileged=true".to_owned(),
                // Nobody resolves the nodes' names.
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                format!("--kubelet-client-certificate={}", self.file("kubelets.crt")),
                format!("--kubelet-client-key={}", self.file("kubelets.key")),
            ]),
        }
        arguments
    }

    /// Arguments of the controllers, or of the scheduler.
    pub(super) fn decider_arguments(&self, name: &str, kubeconfig: &Path) -> Vec<String> {
        let mut arguments = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if name == "kube-controller-manager" {
            arguments.extend([
                format!("--service-account-private-key-file={}", self.file("accounts.key")),
                format!("--root-ca-file={}", self.file("ca.crt")),
                format!("--service-cluster-ip-range={SERVICES}"),
                "--use-service-account-credentials=true".to_owned(),
            ]);
        }
        arguments
    }

    fn etcd_url(&self) -> String {
        format!("http://{}", self.etcd_addr())
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}
