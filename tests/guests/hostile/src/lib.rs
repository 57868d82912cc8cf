//! A projector that calls WASI as its events ask for, in place of another language's runtime.
//!
//! It handles events with a key `wasi` in their data and ignores all others. Its findings go into a
//! document named after the event's stream, for a test to check. Its world is `hostile` of
//! `../wasi.wit`.

#[allow(unsafe_code, missing_docs, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../wasi.wit", world: "test:wasi/hostile", generate_all });
}

use bindings::wasi::{
    cli::{environment, exit, stderr, stdin, stdout},
    clocks::{monotonic_clock, wall_clock},
    filesystem::preopens,
    io::poll,
    random::{insecure_seed, random},
    sockets::{instance_network, ip_name_lookup, network::IpAddressFamily, tcp_create_socket, udp_create_socket},
};
use sandmill_guest::{descriptor, prelude::*};
use serde::{Deserialize, Serialize};

const COLLECTION: &str = "hostile_log";
const HOUR: u64 = 3_600_000_000_000;

#[derive(Deserialize)]
struct Script {
    wasi: Option<Deed>,
    /// `print`, `exit`: the text to print.
    #[serde(default)]
    text: String,
}

/// The action that an event asks for.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Deed {
    /// Sleeps for an hour, a thousand times, in every way that WASI offers.
    Sleep,
    /// Sleeps until the clock advances.
    SleepUntil,
    /// Polls an empty list.
    PollNothing,
    /// Subscribes to clocks without end and releases no handle.
    Hoard,
    /// Asks for more random bytes than fit into memory.
    RandomBytes,
    /// Reads everything that might differ from one run to the next.
    Look,
    /// Tries to use the network.
    Escape,
    /// Prints `text` to both streams, without ending its line.
    Print,
    /// Prints more zeroes than fit into memory.
    PrintZeroes,
    /// Prints more at once than a stream accepts.
    PrintMuch,
    /// Releases a stream before the pollable of it.
    ReleaseEarly,
    /// Prints `text` as an error and ends the program.
    Exit,
}

/// Its findings.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    seconds: u64,
    nanoseconds: u64,
    random: u64,
    seed: (u64, u64),
    variables: usize,
    folders: usize,
    input: usize,
    refusals: Vec<String>,
}

struct Hostile;

impl Projector for Hostile {
    fn describe() -> Descriptor {
        descriptor!(env!("CARGO_PKG_NAME")).collection(COLLECTION)
    }

    fn project(batch: &Batch) -> Result<Projection, Halt> {
        let mut projection = Projection::new();
        for event in batch.events() {
            // Events with the scripts of other guests.
            let Ok(Script { wasi: Some(deed), text }) = event.data() else { continue };
            projection.put(COLLECTION, event.stream_id(), &carry_out(&deed, &text))?;
        }
        Ok(projection)
    }
}

export_projector!(Hostile);

fn carry_out(deed: &Deed, text: &str) -> Found {
    match deed {
        Deed::Sleep => {
            for _ in 0..1_000 {
                monotonic_clock::subscribe_duration(HOUR).block();
                let (a, b) =
                    (monotonic_clock::subscribe_instant(u64::MAX), monotonic_clock::subscribe_duration(u64::MAX));
                assert_eq!(poll::poll(&[&a, &b]), [0, 1]);
                let stream = stdout::get_stdout();
                assert_eq!(poll::poll(&[&stream.subscribe(), &a]), [0, 1], "whichever was made first");
            }
        }
        Deed::SleepUntil => {
            let end = monotonic_clock::now() + 1_000_000;
            while monotonic_clock::now() < end {
                monotonic_clock::subscribe_instant(end).block();
            }
        }
        Deed::PollNothing => drop(poll::poll(&[])),
        Deed::Hoard => loop {
            std::mem::forget(monotonic_clock::subscribe_duration(HOUR));
        },
        Deed::RandomBytes => drop(random::get_random_bytes(1 << 40)),
        Deed::Look => return look(),
        Deed::Escape => return escape(),
        Deed::Print => print(text),
        Deed::PrintZeroes => {
            let stream = stdout::get_stdout();
            let _ = stream.write_zeroes(1 << 40);
            drop(stream.subscribe());
        }
        Deed::PrintMuch => print(&"x".repeat(100_000)),
        Deed::ReleaseEarly => {
            let stream = stdout::get_stdout();
            let pollable = stream.subscribe();
            drop(stream);
            drop(pollable);
        }
        Deed::Exit => {
            print(text);
            exit::exit(Err(()));
        }
    }
    Found::default()
}

fn look() -> Found {
    let now = wall_clock::now();
    Found {
        seconds: now.seconds,
        nanoseconds: monotonic_clock::now(),
        random: random::get_random_u64(),
        seed: insecure_seed::insecure_seed(),
        variables: environment::get_environment().len() + environment::get_arguments().len(),
        folders: preopens::get_directories().len(),
        input: stdin::get_stdin().blocking_read(1 << 20).map_or(0, |bytes| bytes.len()),
        refusals: Vec::new(),
    }
}

fn escape() -> Found {
    let tcp = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).map(drop);
    let udp = udp_create_socket::create_udp_socket(IpAddressFamily::Ipv6).map(drop);
    let name = ip_name_lookup::resolve_addresses(&instance_network::instance_network(), "example.org").map(drop);
    let refusals = [tcp, udp, name].iter().map(|answer| format!("{answer:?}")).collect();
    Found { refusals, ..Found::default() }
}

fn print(text: &str) {
    for stream in [stdout::get_stdout(), stderr::get_stderr()] {
        let _ = stream.blocking_write_and_flush(text.as_bytes());
    }
}
