//! What is spoken on a Service port, as far as its manifest tells.
//!
//! Place in the walk: used by [`super::service`]. Must not know: endpoints, bytes.

use crate::mesh::service::AppProtocol;

/// `appProtocol`, else the port name's prefix before `-`, else the port number (Istio's protocol selection).
pub(super) fn select(app_protocol: Option<&str>, port_name: &str, port: u16) -> AppProtocol {
    let from_name = port_name.split('-').next().and_then(named);
    app_protocol
        .and_then(|name| named(&name.to_ascii_lowercase()))
        .or(from_name)
        .unwrap_or_else(|| AppProtocol::of_port(port))
}

/// `None` for names that say nothing: detection then decides.
fn named(name: &str) -> Option<AppProtocol> {
    Some(match name {
        "http" | "kubernetes.io/ws" => AppProtocol::Http,
        "http2" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" | "grpc-web" => AppProtocol::Grpc,
        // TLS of the application's own, or a protocol with its own opening: nothing to be seen in the bytes.
        "https" | "tls" | "tcp" | "kubernetes.io/wss" | "redis" | "mysql" | "mongo" | "postgres"
        | "postgresql" | "smtp" | "amqp" | "kafka" => AppProtocol::Tcp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use AppProtocol::{Detect, Grpc, Http, Http2, Tcp};

    #[test]
    fn the_most_explicit_statement_decides() {
        for (app_protocol, name, port, expected) in [
            (Some("http"), "tcp-x", 3306, Http),
            (Some("HTTP"), "", 80, Http),
            (Some("https"), "http", 443, Tcp),
            (Some("kubernetes.io/h2c"), "", 80, Http2),
            (Some("kubernetes.io/ws"), "", 80, Http),
            (Some("kubernetes.io/wss"), "http", 80, Tcp),
            (Some("grpc"), "", 80, Grpc),
            (Some("example.com/own"), "http", 80, Http),
            (None, "http", 3306, Http),
            (None, "http-metrics", 80, Http),
            (None, "http2", 80, Http2),
            (None, "grpc-api", 80, Grpc),
            (None, "redis", 80, Tcp),
            (None, "httpx", 80, Detect),
            (None, "", 6379, Tcp),
            (None, "web", 5432, Tcp),
            (None, "", 25, Tcp),
            (None, "", 8080, Detect),
        ] {
            assert_eq!(
                select(app_protocol, name, port),
                expected,
                "{app_protocol:?} {name:?} {port}"
            );
        }
    }
}
