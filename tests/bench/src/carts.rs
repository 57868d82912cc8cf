//! Carts: 200,000 mixed events of 10,000 carts and 100 tenants. Nearly every event of a page
//! changes a different document, which is the worst case for writing.
//!
//! The plugin `cart-summary`, the same fold as native code, a hand-written loop, and reading alone
//! take turns. Their documents must be equal.

use std::{path::Path, sync::Arc};

use crate::{
    floor,
    folding::Carts,
    host,
    report::Report,
    world::{Database, World},
};

const PART: &str = "carts";
pub const COLLECTION: &str = "cart_summary";
const TENANTS: usize = 100;

/// Measures the events per second of each candidate, and their ratios.
pub async fn measure(world: &World, report: &mut Report) -> anyhow::Result<()> {
    let database = load(world, "carts").await?;
    let events = database.events().await?;
    let config = world.config(Path::new(""))?;
    let plugin = host::plugin(world, "cart-summary")?;
    let native = host::instead(&plugin, Arc::new(Carts::new(COLLECTION)?));
    // Creates the tables, and warms everything up.
    host::catch_up(&config, &database, &plugin).await?;

    let [mut wasm_rates, mut native_rates, mut small_rates, mut large_rates, mut read_rates] =
        [const { Vec::new() }; 5];
    let [small, large] = floor::BATCHES;
    for round in 0..world.rounds {
        let mut order = [0, 1, 2, 3];
        // The order rotates, because each run is affected by the state that the previous one left.
        order.rotate_left(round % 4);
        let mut made = Vec::new();
        for turn in order {
            let (rates, seconds) = match turn {
                0 => (&mut wasm_rates, host::catch_up(&config, &database, &plugin).await?),
                1 => (&mut native_rates, host::catch_up(&config, &database, &native).await?),
                2 => (&mut small_rates, floor::run(&database, small).await?),
                _ => (&mut large_rates, floor::run(&database, large).await?),
            };
            rates.push(events / seconds);
            made.push(database.fingerprint(COLLECTION).await?);
        }
        anyhow::ensure!(made.iter().all(|one| *one == made[0]), "they made different documents: {made:?}");
        read_rates.push(events / floor::read(&database, large).await?);
    }
    report.add(PART, "cart-summary", "events/s", wasm_rates.clone());
    report.add(PART, "the same as native code", "events/s", native_rates.clone());
    report.add(PART, format!("a hand-written loop, {small} a batch"), "events/s", small_rates.clone());
    report.add(PART, format!("a hand-written loop, {large} a batch"), "events/s", large_rates.clone());
    report.add(PART, "reading alone", "events/s", read_rates);
    report.add_ratio(PART, "plugin / native code", &wasm_rates, &native_rates);
    report.add_ratio(PART, format!("plugin / hand-written loop, {small}"), &wasm_rates, &small_rates);
    report.add_ratio(PART, format!("plugin / hand-written loop, {large}"), &wasm_rates, &large_rates);
    host::compare_binaries(world, &database, "cart-summary", (PART, "sandmill run"), report).await
}

/// Creates a database with the events.
pub async fn load(world: &World, name: &str) -> anyhow::Result<Database> {
    let database = world.database(name).await?;
    eprintln!("making 200,000 events of carts");
    database.session.batch_execute(&events(TENANTS)).await?;
    database.session.batch_execute("vacuum analyze sandmill.events").await?;
    Ok(database)
}

/// The statement that inserts the events, mixed by a hash of their number, of carts that `tenants`
/// tenants share. Versions are consecutive in every stream.
pub fn events(tenants: usize) -> String {
    format!(
        "insert into sandmill.events (tenant, stream, version, type, data)
         select 'tenant-' || cart % {tenants}, 'cart-' || cart, row_number() over (partition by cart order by n), 'ItemAdded',
           json_build_object('sku', 'product-' || n % 997, 'quantity', n % 5 + 1, 'price', n % 1000, 'note', repeat('x', 120))
         from (select n, (hashint4(n) & 2147483647) % 10000 as cart from generate_series(1, 200000) n) numbered
         order by n"
    )
}
