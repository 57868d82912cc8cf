//! The plugin `cart-summary` as native code: a handler that replaces it, and the cart and its
//! events, which the hand-written loop uses too.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sandmill::model::{
    effects::{Change, Effects, Skipped},
    event::Batch,
    handler::{BoxFuture, CallFailure, Documents, Failure, Handler, Reason},
    ids::CollectionName,
};
use serde::{Deserialize, Serialize};

/// A cart, with the fields of the plugin's document.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Cart {
    items: u64,
    total: u64,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    #[default]
    Open,
    CheckedOut,
    Abandoned,
}

/// An event of a cart.
pub enum CartEvent {
    Added(Item),
    Removed(Item),
    CheckedOut,
    Abandoned,
}

#[derive(Deserialize)]
pub struct Item {
    quantity: u64,
    price: u64,
}

impl CartEvent {
    /// Parses an event, if it concerns carts.
    pub fn parse(event_type: &str, data: &str) -> serde_json::Result<Option<Self>> {
        Ok(Some(match event_type {
            "ItemAdded" => CartEvent::Added(serde_json::from_str(data)?),
            "ItemRemoved" => CartEvent::Removed(serde_json::from_str(data)?),
            "CartCheckedOut" => CartEvent::CheckedOut,
            "CartAbandoned" => CartEvent::Abandoned,
            _ => return Ok(None),
        }))
    }
}

impl Cart {
    /// Applies an event.
    pub fn evolve(&mut self, event: CartEvent) {
        match event {
            CartEvent::Added(Item { quantity, price }) => {
                self.items += quantity;
                self.total += quantity * price;
            }
            CartEvent::Removed(Item { quantity, price }) => {
                self.items = self.items.saturating_sub(quantity);
                self.total = self.total.saturating_sub(quantity * price);
            }
            CartEvent::CheckedOut => self.status = Status::CheckedOut,
            CartEvent::Abandoned => self.status = Status::Abandoned,
        }
    }
}

/// The native handler that replaces the plugin.
pub struct Carts {
    collection: CollectionName,
}

impl Carts {
    /// A handler that writes to this collection.
    pub fn new(collection: &str) -> anyhow::Result<Self> {
        Ok(Carts { collection: CollectionName::parse(collection)? })
    }

    async fn fold(self: Arc<Self>, batch: Arc<Batch>, documents: Arc<dyn Documents>) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut ids = Vec::new();
        let mut touches = Vec::with_capacity(batch.events.len());
        for (index, event) in batch.events.iter().enumerate() {
            match CartEvent::parse(&event.event_type, &event.data) {
                Ok(None) => {}
                Ok(Some(parsed)) => {
                    let number = *numbers.entry(&event.stream).or_insert_with(|| {
                        ids.push(event.stream.to_string());
                        ids.len() - 1
                    });
                    touches.push((number, parsed));
                }
                Err(error) => {
                    effects.skipped.push(Skipped { index, code: "invalid-data".into(), message: error.to_string() });
                }
            }
        }
        let broken = |error: serde_json::Error| Failure::Block(Reason::new("unreadable-document", error.to_string()));
        let found = documents.get_many(&self.collection, &ids).await?;
        let parse = |text: Option<Arc<str>>| text.map_or(Ok(Cart::default()), |text| serde_json::from_str(&text));
        let mut carts = found.into_iter().map(parse).collect::<Result<Vec<Cart>, _>>().map_err(broken)?;
        for (number, event) in touches {
            carts[number].evolve(event);
        }
        for (id, cart) in ids.into_iter().zip(carts) {
            let data = serde_json::to_string(&cart).map_err(broken)?;
            effects.changes.push(Change::Put { collection: self.collection.clone(), id: id.into(), data: data.into() });
        }
        Ok(effects)
    }
}

impl Handler for Carts {
    fn handle(
        self: Arc<Self>,
        batch: Arc<Batch>,
        documents: Arc<dyn Documents>,
    ) -> BoxFuture<'static, Result<Effects, CallFailure>> {
        Box::pin(async move { Ok(self.fold(batch, documents).await?) })
    }

    fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
        self
    }

    fn wall_time(&self) -> Duration {
        Duration::from_secs(60)
    }
}
