//! Black-box tests: a real node on a real socket with real guests. One file for each kind of behaviour.

mod command_line;
mod components;
mod drain;
mod hostile;
mod inference;
mod invocation;
mod limits;
mod operations;
mod seam;
mod support;
