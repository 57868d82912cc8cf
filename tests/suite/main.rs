//! Tests that need a database or a whole host, by theme.

// Databases that are restored into another cluster.
mod anchors;
// The record of operators' changes.
mod audit;
// Checks and tests of plugins without a database, for authors.
mod authors;
// Very many lanes that need attention.
mod blocked_lanes;
// Failure capsules, and dead letters on another version.
mod capsules;
// The interface of the command line: help, JSON, settings and exit codes.
mod cli;
// Connections over a network: encryption, authentication, and errors.
mod connections;
// Many concurrent writers: no event is lost where a naive follower loses some.
mod contention;
// A database that crashes under a running host.
mod crashes;
// Dead letters on the command line.
mod dead_letters;
// The demo, `sandmill demo`.
mod demo;
// A lane that is too slow for its events, while all others continue.
mod detach;
// `sandmill dev`, which reloads plugins while their author works on them.
mod dev;
// The documentation pages: their commands are run, and names in them must exist.
mod docs;
// The tables that hold a tenant's data, which an erasure must reach.
mod erasure;
// The explanations of delays by `sandmill explain`.
mod explain;
// Real data: recorded flights, and the read model that they must produce.
mod flights;
// Failure policies: attempts, back-off, dead letters and stops, by class of failure.
mod failures;
// Changes of the plugins folder by people and tools.
mod folder;
// The plain and the packed form of the contract.
mod forms;
// The host as a process: the lock that allows one host, its end, and plugins that do not start.
mod host;
// Hostile guests, each of which harms only its own tenant.
mod hostile;
// The tracker of pages and lane checkpoints, compared with a model.
mod in_flight;
// A host that is killed: from outside, and at every step of a commit.
mod kills;
// Lanes behind the cursor, which are blocked, retrying or resumed, and rejoin the tail.
mod lanes;
// One plugin in three languages.
mod languages;
// Large events and documents, which cost only their own lane.
mod large;
// The monitoring endpoint.
mod listen;
// Logs that nobody reads, and hostile text in logs and output.
mod logging;
// Counts for operators, which must be exact.
mod numbers;
// Database failures short of a crash: time-outs, a full disk, rejected data.
mod outages;
// Owners of ids and collections, which no other tenant can take over.
mod ownership;
// Lanes finer than a tenant.
mod partitions;
// The plans of the statements that read the log.
mod plans;
// Failure policies, compared with handling events one by one.
mod policies;
// Strategies of back-pressure.
mod pressure;
// The README's and the plugin page's commands, which are run.
mod readme;
// Reactors: events that they append.
mod reactors;
// Database roles: the host's, and those of applications.
mod rights;
// Errors of guests, which stop only their own lane.
mod sandbox;
// Dead letters that are handled again or discarded, parked streams, skipped events, and budgets.
mod set_aside;
// Shares of a processor's lanes, and generations of its documents.
mod shares;
// Connections that processors share.
mod sharing;
// Signals that end a command.
mod signals;
// Sources: the contract of every layout of an event store.
mod sources;
// The `.sql` files: their statements and their headers.
mod sql;
// The event store: appending, importing, reading, and its migrations.
mod store;
// Swaps and rollbacks of plugin versions.
mod swaps;
// Limits, usage and pauses of tenants.
mod tenants;
// Terms that keep ending, and the reasons.
mod term_errors;
// House rules of the code: borders between rooms, sizes of files, leftovers.
mod tidy;
// New plugins, created by `sandmill plugin new`.
mod toolchain;
