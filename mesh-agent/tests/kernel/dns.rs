//! DNS over UDP goes to the agent where it is captured, and looks to the application as if the resolver had answered.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::Arc;

use mesh_agent::capture::dns::DnsListeners;
use mesh_agent::kernel::Kernel;
use mesh_agent::kernel::status::Change;
use mesh_agent::mesh::exclusions::Exclusions;
use mesh_agent::mesh::workload::{FailMode, Workload};
use mesh_agent::pod::LocalPod;
use mesh_common::dns::{DNS_LISTENERS, FIRST_DNS_LISTENER};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::lab::{PEER, POD, Result, Side};
use crate::{Bench, in_lab};

/// Answers each query with the resolver that it was meant for.
pub(crate) async fn name_resolvers(pod: LocalPod, listener: UdpSocket) {
    let mut query = [0; 64];
    loop {
        let (_, asker) = listener.recv_from(&mut query).await.unwrap();
        let own = listener.local_addr().unwrap();
        let resolver = pod.flows.resolver_behind(pod.netns.cookie(), own).unwrap();
        let answer = format!("agent for {}", resolver.unwrap());
        listener.send_to(answer.as_bytes(), asker).await.unwrap();
    }
}

/// The listeners of a pod on the current runtime.
pub(crate) fn on_runtime(listeners: DnsListeners) -> Vec<UdpSocket> {
    let sockets = listeners.into_sockets().into_iter();
    sockets
        .map(|socket| UdpSocket::from_std(socket).unwrap())
        .collect()
}

impl Bench {
    fn captures_dns(&mut self, is_captured: bool) {
        let pod = Arc::make_mut(&mut self.pod);
        pod.dns_capture = Some(is_captured);
        let reports = self.enrolment.reconcile(&[Arc::clone(&self.pod)]);
        let changes: Vec<_> = reports.into_iter().map(|report| report.change).collect();
        assert_eq!(changes, [Change::DnsChanged { is_captured }]);
    }

    /// What a client in the pod saw: senders and answers, or the errno.
    fn ask(&self, how: &str, resolvers: &[&str]) -> Result<Value> {
        self.ask_port(how, "53", resolvers)
    }

    fn ask_port(&self, how: &str, port: &str, resolvers: &[&str]) -> Result<Value> {
        self.ask_from(Side::Pod, how, port, resolvers)
    }

    fn ask_from(&self, side: Side, how: &str, port: &str, resolvers: &[&str]) -> Result<Value> {
        let child = self
            .lab
            .script(side, SCRIPT, &[&[how, port], resolvers].concat())?;
        let output = tokio::task::block_in_place(|| child.wait_with_output())?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A resolver outside of the pod, at its neighbour's addresses.
    fn resolver(&self) -> Result<Resolver> {
        let mut child = self.lab.script(Side::Peer, SCRIPT, &["serve", "53"])?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        tokio::task::block_in_place(|| lines.read_line(&mut String::new()))?;
        Ok(Resolver(child))
    }
}

/// Ends when it is dropped.
struct Resolver(Child);

impl Drop for Resolver {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn by_agent(resolver: &str) -> Value {
    let at = if resolver.contains(':') {
        format!("[{resolver}]:53")
    } else {
        format!("{resolver}:53")
    };
    json!([at, format!("agent for {at}")])
}

#[test]
fn a_captured_query_is_answered_as_if_by_the_resolver() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dns")?;
        bench.captures_dns(true);
        for resolver in [PEER[0], PEER[1], "169.254.20.10"] {
            let answer = by_agent(resolver);
            assert_eq!(bench.ask("unconnected", &[resolver])?, json!([answer]));
            // The last line is what getpeername shows.
            assert_eq!(bench.ask("connected", &[resolver])?, json!([answer, answer[0]]));
            if !resolver.contains(':') {
                assert_eq!(bench.ask("mapped", &[resolver])?, json!([answer]));
                assert_eq!(
                    bench.ask("mapped-connected", &[resolver])?,
                    json!([answer, answer[0]])
                );
            }
        }
        Ok(())
    });
}

#[test]
fn one_socket_may_ask_several_resolvers_in_turn_or_at_once() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dnsmany")?;
        bench.captures_dns(true);
        for resolvers in [
            [PEER[0], "10.96.0.10", "192.0.2.1"],
            [PEER[1], "fd00:96::a", "2001:db8::1"],
        ] {
            let mut answers = resolvers.map(by_agent);
            assert_eq!(bench.ask("in-turn", &resolvers)?, json!(answers));
            answers.sort_by_key(ToString::to_string);
            assert_eq!(bench.ask("at-once", &resolvers)?, json!(answers));
        }
        Ok(())
    });
}

#[test]
fn a_resolver_that_no_listener_is_left_for_is_asked_directly() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dnsfull")?;
        let _resolver = bench.resolver()?;
        bench.captures_dns(true);
        let others: Vec<String> = (1..=DNS_LISTENERS).map(|n| format!("192.0.2.{n}")).collect();
        for other in &others {
            assert_eq!(bench.ask("unconnected", &[other])?, json!([by_agent(other)]));
        }
        let direct = json!([[format!("{}:53", PEER[0]), "resolver"]]);
        assert_eq!(bench.ask("unconnected", &[PEER[0]])?, direct);
        // Those that have one keep it, and another family has its own.
        assert_eq!(
            bench.ask("unconnected", &[&others[0]])?,
            json!([by_agent(&others[0])])
        );
        assert_eq!(bench.ask("unconnected", &[PEER[1]])?, json!([by_agent(PEER[1])]));
        Ok(())
    });
}

#[test]
fn dns_is_left_alone_where_it_is_not_captured() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dnsoff")?;
        let _resolver = bench.resolver()?;
        let direct = |resolver: &str| {
            let mut answer = by_agent(resolver);
            answer[1] = "resolver".into();
            json!([answer])
        };
        let are_direct = |bench: &Bench| -> Result<bool> {
            Ok(PEER
                .into_iter()
                .all(|at| bench.ask("unconnected", &[at]).ok() == Some(direct(at))))
        };
        assert!(are_direct(&bench)?, "never captured");
        bench.captures_dns(true);
        assert!(!are_direct(&bench)?);
        bench.captures_dns(false);
        assert!(are_direct(&bench)?, "captured no more");
        bench.captures_dns(true);
        Arc::make_mut(&mut bench.pod).exclusions = Exclusions {
            outbound_ports: [53].into(),
            ..Exclusions::default()
        }
        .into();
        bench.enrolment.reconcile(&[Arc::clone(&bench.pod)]);
        assert!(are_direct(&bench)?, "excluded");
        Ok(())
    });
}

#[test]
fn without_an_agent_queries_are_refused_or_pass_as_connections_do() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dnsdead")?;
        let _resolver = bench.resolver()?;
        bench.captures_dns(true);
        bench.heart.fail();
        for how in ["unconnected", "connected"] {
            for at in PEER {
                assert_eq!(bench.ask(how, &[at])?, json!("ECONNREFUSED"), "{how} {at}");
            }
        }
        bench.pod = Arc::new(Workload {
            fail_mode: FailMode::Open,
            ..Workload::clone(&bench.pod)
        });
        bench.enrolment.reconcile(&[Arc::clone(&bench.pod)]);
        for at in PEER {
            assert_eq!(bench.ask("unconnected", &[at])?[0][1], "resolver", "{at}");
        }
        Ok(())
    });
}

#[test]
fn nobody_reaches_the_listeners_but_the_pods_own_queries() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dnsown")?;
        let port = FIRST_DNS_LISTENER.to_string();
        bench.captures_dns(true);
        for at in POD {
            // Somebody stands behind the first listener.
            let resolver = if at.contains(':') { PEER[1] } else { PEER[0] };
            assert_eq!(
                bench.ask("unconnected", &[resolver])?,
                json!([by_agent(resolver)])
            );
            let idle = (FIRST_DNS_LISTENER + DNS_LISTENERS - 1).to_string();
            for (how, port) in [("connected", &port), ("connected", &idle), ("unconnected", &idle)] {
                assert_eq!(
                    bench.ask_port(how, port, &[at])?,
                    json!("ECONNREFUSED"),
                    "{how} {at}"
                );
            }
            let outside = bench.ask_from(Side::Peer, "connected", &port, &[at])?;
            assert_eq!(outside, json!("ECONNREFUSED"), "{at} from outside");
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_leaves_leaves_no_resolver_behind() {
    in_lab(async || {
        let mut bench = Bench::enrolled("dnsleave")?;
        let _resolver = bench.resolver()?;
        bench.captures_dns(true);
        assert_eq!(bench.ask("unconnected", &[PEER[0]])?, json!([by_agent(PEER[0])]));
        let cookie = mesh_agent::pod::netns::Netns::open(&bench.lab.netns(Side::Pod))?.cookie();
        let flows = bench.lab.kernel()?.flows();
        let listener = format!("{}:{FIRST_DNS_LISTENER}", POD[0]).parse()?;
        assert!(flows.resolver_behind(cookie, listener)?.is_some());
        bench.enrolment.reconcile(&[]);
        assert_eq!(flows.resolver_behind(cookie, listener)?, None);
        assert_eq!(bench.ask("unconnected", &[PEER[0]])?[0][1], "resolver");
        Ok(())
    });
}

const SCRIPT: &str = r#"
import errno, ipaddress, json, select, socket, sys
def text(end):
    ip = ipaddress.ip_address(end[0].split("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return f"[{ip}]:{end[1]}" if ip.version == 6 else f"{ip}:{end[1]}"
how, port, *resolvers = sys.argv[1:]
port = int(port)
if how == "serve":
    sockets = [socket.socket(f, socket.SOCK_DGRAM) for f in (socket.AF_INET, socket.AF_INET6)]
    sockets[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for s, ip in zip(sockets, ("10.231.7.2", "fd00:231:7::2")): s.bind((ip, port))
    print("ready", flush=True)
    while True:
        for s in select.select(sockets, [], [])[0]:
            _, end = s.recvfrom(64)
            s.sendto(b"resolver", end)
if "mapped" in how: resolvers = ["::ffff:" + ip for ip in resolvers]
s = socket.socket(socket.AF_INET6 if ":" in resolvers[0] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
def hear():
    data, end = s.recvfrom(64)
    return [text(end), data.decode()]
try:
    if "connected" in how and how != "unconnected":
        s.connect((resolvers[0], port))
        s.send(b"?")
        seen = [hear(), text(s.getpeername())]
    elif how == "at-once":
        for ip in resolvers: s.sendto(b"?", (ip, port))
        seen = sorted((hear() for _ in resolvers), key=lambda a: json.dumps(a, separators=(",", ":")))
    else:
        seen = []
        for ip in resolvers:
            s.sendto(b"?", (ip, port))
            seen.append(hear())
except TimeoutError:
    seen = "ETIMEDOUT"
except OSError as e:
    seen = errno.errorcode[e.errno]
print(json.dumps(seen), flush=True)
"#;
