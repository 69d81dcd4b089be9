//! Claims about the data path, tried on whole agents in this process: real sockets on loopback, real mTLS, real
//! HTTP. Only the kernel is played: the [`lab`] files what the hooks would have filed.

mod app;
mod client;
mod facts;
mod flows;
mod lab;

mod authorization;
mod backends;
mod balance;
mod bytes;
mod cross_node;
mod crowded;
mod disabled;
mod dns;
mod explain;
mod explanations;
mod external;
mod external_bytes;
mod faults;
mod filters;
mod floods;
mod gates;
mod half_closed;
mod handshakes;
mod hostile;
mod injected;
mod kept;
mod limits;
mod mirrors;
mod quotas;
mod records;
mod refusals;
mod retried_calls;
mod retries;
mod retry_limits;
mod revoked;
mod rewriting;
mod same_node;
mod sessions;
mod stopping;
mod stream_routes;
mod streams;
mod strictness;
mod tokens;
mod undecided;
