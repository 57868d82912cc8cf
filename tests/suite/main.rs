//! Everything that needs a database or a whole host, by theme.

// A store that comes into another cluster.
mod anchors;
// The command line as people, scripts and shells meet it.
mod cli;
// What a plugin's author is told without a database.
mod authors;
// Many writers at once: nothing is lost where a naive follower loses events.
mod connections;
mod contention;
// A database that dies under a living host.
mod crashes;
// The tracker of pages and lane checkpoints against a model.
mod in_flight;
// The demo, as whoever tries Sandmill first meets it.
mod demo;
// A lane that is too slow for what it gets, while others go on.
mod detach;
// A folder in which somebody works on plugins, and commands that are started there.
mod dev;
// The pages on appending and reading, run as they stand there.
mod docs;
// Why something is behind, as a person is told.
mod explain;
// The plugins folder as others leave it.
mod folder;
// Real input: flights that happened, and the read model that they must lead to.
mod flights;
// The host as a process: who may run, how it ends, what it refuses to start.
mod host;
// The hostile kit: whatever a guest tries, it hurts its own tenant and nobody else.
mod hostile;
// A host that dies: killed from outside and at every step of a commit.
mod kills;
// Ids and collections: whose they are, and that nobody else comes by them.
mod ownership;
// One plugin in three languages.
mod languages;
// Output that nobody reads, and words that want to be more than words.
mod listen;
mod logging;
// Lanes behind the tail: blocked, waiting, resumed, and one with it again.
mod lanes;
// Large events and documents: they cost their own lane, and nobody's memory.
mod large;
// A database that fails without dying: time-outs, no room, refused data.
mod outages;
// Numbers that operators see.
mod numbers;
// Lanes finer than a tenant.
mod partitions;
// The README's plugin and commands, and the commands of the page on plugins.
mod readme;
// What database roles may do: the host's, and those of applications.
mod rights;
// What a guest can do wrong, and that only its own lane stops.
mod sandbox;
// The plans of the statements that read the log.
mod plans;
// Strategies of back-pressure.
mod pressure;
// Connections that processors share.
mod sharing;
// Signals that end a command, and what it leaves.
mod signals;
// Sources: what every layout of an event store must do.
mod sources;
// Statements that lie in files of their own.
mod sql;
// Very many lanes that wait for a person.
mod blocked_lanes;
// The event store: appending, importing, reading, and the migrations that make it.
mod store;
mod swaps;
// Terms that keep ending, and why.
mod term_errors;
// What tenants may use, what they have used, and who waits because the settings say so.
mod tenants;
// The repository's own habits: borders, sizes, loose ends.
mod tidy;
// Making plugins.
mod toolchain;
