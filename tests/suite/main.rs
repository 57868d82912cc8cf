//! Tests that need a database or a whole host, by theme.

// Databases that are restored into another cluster.
mod anchors;
// Checks and tests of plugins without a database, for authors.
mod authors;
// Very many lanes that need a person.
mod blocked_lanes;
// The command line, as people, scripts and shells use it.
mod cli;
// Connections over a network: encryption, admission, and errors.
mod connections;
// Many concurrent writers: no event is lost where a naive follower loses some.
mod contention;
// A database that crashes under a running host.
mod crashes;
// The demo, as a first user meets it.
mod demo;
// A lane that is too slow for its events, while all others continue.
mod detach;
// `sandmill dev`: a folder in which somebody works on plugins.
mod dev;
// The pages on appending and reading, whose commands are run.
mod docs;
// Explanations of delays, as a person reads them.
mod explain;
// Real data: recorded flights, and the read model that they must produce.
mod flights;
// Changes of the plugins folder by people and tools.
mod folder;
// The host as a process: who may run it, how it ends, what it refuses to start.
mod host;
// Hostile guests, each of which harms only its own tenant.
mod hostile;
// The tracker of pages and lane checkpoints, compared with a model.
mod in_flight;
// A host that is killed: from outside, and at every step of a commit.
mod kills;
// Lanes behind the cursor: blocked, retrying, resumed, and merged again.
mod lanes;
// One plugin in three languages.
mod languages;
// Large events and documents, which cost only their own lane.
mod large;
// The monitoring endpoint.
mod listen;
// Logs that nobody reads, and hostile text in output.
mod logging;
// Measurements for operators.
mod numbers;
// Database failures short of a crash: time-outs, a full disk, rejected data.
mod outages;
// Owners of ids and collections, which no other tenant can take over.
mod ownership;
// Lanes finer than a tenant.
mod partitions;
// The plans of the statements that read the log.
mod plans;
// Strategies of back-pressure.
mod pressure;
// The README's commands, which are run.
mod readme;
// Database roles: the host's, and those of applications.
mod rights;
// Errors of guests, which stop only their own lane.
mod sandbox;
// Connections that processors share.
mod sharing;
// Signals that end a command.
mod signals;
// Sources: the contract of every layout of an event store.
mod sources;
// Statements in files of their own.
mod sql;
// The event store: appending, importing, reading, and its migrations.
mod store;
// Swaps and rollbacks of plugin versions.
mod swaps;
// Limits, usage and pauses of tenants.
mod tenants;
// Terms that keep ending, and the reasons.
mod term_errors;
// House rules: borders, sizes, leftovers.
mod tidy;
// New plugins.
mod toolchain;
