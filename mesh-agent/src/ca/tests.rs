//! Claims about the service, asked by the agent's own client over real sockets.
