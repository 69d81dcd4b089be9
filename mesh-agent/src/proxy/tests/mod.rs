//! Claims about the data path, tried on whole agents in this process: real sockets on loopback, real mTLS, real
//! HTTP. Only the kernel is played: the [`lab`] files what the hooks would have filed.

mod app;
mod client;
mod facts;
mod flows;
mod lab;

mod authorization;
mod bytes;
mod cross_node;
mod dns;
mod faults;
mod filters;
mod half_closed;
mod hostile;
mod injected;
mod kept;
mod records;
mod refusals;
mod rewriting;
mod same_node;
mod stopping;
mod streams;
