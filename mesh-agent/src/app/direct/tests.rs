//! What may go past the agent, what does, and what is counted of it.
