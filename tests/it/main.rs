//! The whole program as its users have it, in one program: linked once.

mod adapt;
mod architecture;
mod cli;
mod commands;
mod common;
mod console;
mod crashes;
mod damage;
mod discover;
mod faults;
mod fuzz;
mod grpc;
mod hostile;
mod house;
mod identity;
mod limits;
mod metrics;
mod monitoring;
mod points_import;
mod remote;
mod replicas;
mod shadow;
mod shards;
mod switch;
mod tls;
mod tokens;
