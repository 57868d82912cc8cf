//! The settings of a failure policy: `[failures]` in a manifest, and `failures` in
//! `[processors.ID]`.
//!
//! ```toml
//! [failures]                         # all classes
//! longest-s = 60
//! [failures.load]                    # a family
//! attempts = 20
//! [failures."plugin:card-declined"]  # one class
//! then = "dead-letter"
//! ```
//!
//! Parsing is written by hand, so that an error names the line of the key or value, the range, and
//! the nearest key or class.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error, MapAccess, Visitor},
};

use super::{
    Blame, CLASSES, LETTERS_LIMIT, REFUSED_COMMIT, THROTTLED,
    back_off::{FLOOR, LONGEST_REQUEST},
};
use crate::model::nearest::nearest;

/// What happens to an event after its last attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Its lane blocks until it is resumed or another version runs.
    #[default]
    Stop,
    /// The same, and the whole processor is paused until it is resumed.
    StopProcessor,
    /// It becomes a dead letter, and its lane continues.
    DeadLetter,
    /// Its stream is parked: the stream's events wait in order, and the lane continues without
    /// them.
    ParkStream,
}

/// The settings for one class of failures, for a family, or for all classes. A setting that is
/// missing is taken from the next wider rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailureRule {
    /// Maximum number of attempts at one event, 1 to 1000000. Default 1 for failures of the family
    /// `event`, 10 for `load`, and no limit for a retry that the plugin asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Delay after the first attempt, ms, 100 to 86400000. It doubles with each further attempt and
    /// varies by a quarter. Default 200, or 1000 for the families `load` and `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<u64>,
    /// Longest delay between two attempts, before it varies by a quarter, s, 1 to 4320000. It also
    /// bounds the delays that a plugin asks for. Default 300, and no bound for the plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_s: Option<u64>,
    /// What happens after the last attempt: `stop` (the lane), `stop-processor`, `dead-letter` or
    /// `park-stream`. Default `stop`, because the others leave documents without the effects of
    /// events, at least for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<Then>,
}

/// The keys of a rule.
const KEYS: [&str; 4] = ["attempts", "first-ms", "longest-s", "then"];
/// The keys that have an effect for shortages on the host.
const HOST_KEYS: [&str; 1] = ["first-ms"];
/// The values of `then`.
const ACTIONS: [(&str, Then); 4] = [
    ("stop", Then::Stop),
    ("stop-processor", Then::StopProcessor),
    ("dead-letter", Then::DeadLetter),
    ("park-stream", Then::ParkStream),
];
/// The families that settings may name.
const FAMILIES: [Blame; 4] = [Blame::Event, Blame::Load, Blame::Host, Blame::Plugin];
/// Maximum bytes of a class in settings. A longer class of a plugin is truncated when stored.
const CLASS_BYTES: usize = 100;
/// The range of `attempts`. A million attempts take more than a week even with
/// `longest-s = 1`.
const ATTEMPTS: RangeInclusive<u64> = 1..=1_000_000;
/// The range of `first-ms`: up to a day.
const FIRST_MS: RangeInclusive<u64> = FLOOR.as_millis() as u64..=24 * 60 * 60 * 1_000;
/// The range of `longest-s`: up to the longest delay that a guest may ask for.
const LONGEST_S: RangeInclusive<u64> = 1..=LONGEST_REQUEST.as_secs();

impl FailureRule {
    /// This rule, with what it leaves open taken from a weaker one.
    pub(super) fn or(self, weaker: &FailureRule) -> FailureRule {
        FailureRule {
            attempts: self.attempts.or(weaker.attempts),
            first_ms: self.first_ms.or(weaker.first_ms),
            longest_s: self.longest_s.or(weaker.longest_s),
            then: self.then.or(weaker.then),
        }
    }
}

/// The settings of a failure policy from one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailureSettings {
    #[serde(flatten)]
    all: FailureRule,
    #[serde(flatten)]
    classes: BTreeMap<String, FailureRule>,
}

impl FailureSettings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == FailureSettings::default()
    }

    /// Whether any of them parks streams.
    pub fn parks(&self) -> bool {
        let mut rules = self.classes.values().chain([&self.all]);
        rules.any(|rule| rule.then == Some(Then::ParkStream))
    }

    /// The rules that apply to a class of a family, the strongest first.
    pub(super) fn rules(&self, class: &str, family: &str) -> impl Iterator<Item = &FailureRule> {
        [self.classes.get(class), self.classes.get(family), Some(&self.all)].into_iter().flatten()
    }

    /// Settings with a value for every key of every family and class, from which the names of all
    /// keys are derived. The code of a plugin is [`CODE`].
    pub fn every() -> Self {
        let every =
            FailureRule { attempts: Some(1), first_ms: Some(1_000), longest_s: Some(1), then: Some(Then::Stop) };
        let for_host = FailureRule { first_ms: every.first_ms, ..FailureRule::default() };
        let for_refused = FailureRule { then: every.then, ..FailureRule::default() };
        let rule = |class: &str| match class {
            REFUSED_COMMIT => for_refused,
            _ if family_of(class) == Blame::Host => for_host,
            _ => every,
        };
        let classes = names().chain([CODE]).map(|class| (class.to_string(), rule(class)));
        FailureSettings { all: every, classes: classes.collect() }
    }
}

/// The class that stands for all classes of plugins in [`FailureSettings::every`].
pub const CODE: &str = "plugin:CODE";

/// The families and classes that settings may name, apart from those of plugins.
fn names() -> impl Iterator<Item = &'static str> {
    let families = FAMILIES.into_iter().map(Blame::name);
    families
        .chain(CLASSES.into_iter().map(|(class, _)| class).filter(|class| ![THROTTLED, LETTERS_LIMIT].contains(class)))
}

/// The family of a family or class.
fn family_of(name: &str) -> Blame {
    FAMILIES.into_iter().find(|blame| blame.name() == name).unwrap_or_else(|| Blame::of(name))
}

/// A key of a table of failures.
enum Key {
    Attempts,
    FirstMs,
    LongestS,
    Then,
    Class(String),
}

/// The table that is read: all failures, or those of one family or class.
#[derive(Clone, Copy)]
enum Table<'a> {
    All,
    Of(&'a str),
}

impl Table<'_> {
    /// The key of this name, or the mistake and the remedy.
    fn key(self, name: &str) -> Result<Key, String> {
        match self {
            Table::Of(class)
                if family_of(class) == Blame::Host && KEYS.contains(&name) && !HOST_KEYS.contains(&name) =>
            {
                return Err(format!(
                    "`{name}` has no effect for `{class}`: a shortage on the host never counts as an attempt, and is \
                     retried until it has passed; set only `first-ms`"
                ));
            }
            Table::All if name.starts_with("plugin:") => {
                let code = name.len() - "plugin:".len();
                return match code > 0 && name.len() <= CLASS_BYTES {
                    true => Ok(Key::Class(name.into())),
                    false => Err(format!("`{name}` needs a code of 1 to 93 bytes, as in `plugin:card-declined`")),
                };
            }
            Table::Of(REFUSED_COMMIT) if KEYS.contains(&name) && name != "then" => {
                return Err(format!(
                    "`{name}` has no effect for `{REFUSED_COMMIT}`: the database would refuse the same results again; set \
                     only `then`"
                ));
            }
            Table::All if name == LETTERS_LIMIT => {
                return Err(format!(
                    "no setting applies to `{name}`: a lane over its tenant's budget always blocks; raise \
                     tenant-limits.dead-letters or tenant-limits.parked-streams"
                ));
            }
            Table::All if names().any(|known| known == name) => return Ok(Key::Class(name.into())),
            Table::All | Table::Of(_) => {}
        }
        match name {
            "attempts" => Ok(Key::Attempts),
            "first-ms" => Ok(Key::FirstMs),
            "longest-s" => Ok(Key::LongestS),
            "then" => Ok(Key::Then),
            _ => {
                let classes = matches!(self, Table::All).then(|| names().chain([CODE])).into_iter().flatten();
                let near = nearest(name, KEYS.into_iter().chain(classes).map(String::from));
                let what = if matches!(self, Table::All) { "key or class" } else { "key" };
                Err(format!("unknown {what} `{name}` in a table of failures; the nearest is `{near}`"))
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Table<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        let name = String::deserialize(deserializer)?;
        self.key(&name).map_err(D::Error::custom)
    }
}

/// Reads the value of a table.
struct Content<'a>(Table<'a>);

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = FailureSettings;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FailureSettings, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = FailureSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of failures, such as [failures.trap] with attempts = 3")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<FailureSettings, A::Error> {
        let (mut all, mut classes) = (FailureRule::default(), BTreeMap::new());
        while let Some(key) = table.next_key_seed(self.0)? {
            match key {
                Key::Attempts => {
                    let attempts = table.next_value_seed(Within("attempts", ATTEMPTS))?;
                    all.attempts = Some(attempts.try_into().unwrap_or(u32::MAX));
                }
                Key::FirstMs => all.first_ms = Some(table.next_value_seed(Within("first-ms", FIRST_MS))?),
                Key::LongestS => all.longest_s = Some(table.next_value_seed(Within("longest-s", LONGEST_S))?),
                Key::Then => all.then = Some(table.next_value()?),
                Key::Class(class) => {
                    let content = table.next_value_seed(Content(Table::Of(&class)))?;
                    let unsuited = [Then::StopProcessor, Then::ParkStream].map(Some).contains(&content.all.then);
                    if class == REFUSED_COMMIT && unsuited {
                        return Err(A::Error::custom(format!(
                            "`{REFUSED_COMMIT}` allows only then = `stop` or `dead-letter`"
                        )));
                    }
                    classes.insert(class, content.all);
                }
            }
        }
        match (all.first_ms, all.longest_s) {
            (Some(first), Some(longest)) if first > longest.saturating_mul(1_000) => Err(A::Error::custom(format!(
                "first-ms = {first} ms exceeds longest-s = {longest} s; lower first-ms or raise longest-s"
            ))),
            _ => Ok(FailureSettings { all, classes }),
        }
    }
}

impl<'de> Deserialize<'de> for FailureSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Content(Table::All).deserialize(deserializer)
    }
}

/// Reads a number of a key, within its range.
struct Within(&'static str, RangeInclusive<u64>);

impl<'de> DeserializeSeed<'de> for Within {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        let Within(key, range) = self;
        let given = i64::deserialize(deserializer)?;
        let number = u64::try_from(given).ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            D::Error::custom(format!("{key} = {given} is out of range; use {low} to {high}"))
        })
    }
}

impl<'de> Deserialize<'de> for Then {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = String::deserialize(deserializer)?;
        let known = ACTIONS.iter().find(|(name, _)| *name == given);
        known.map(|(_, then)| *then).ok_or_else(|| {
            let near = nearest(&given, ACTIONS.iter().map(|(name, _)| (*name).to_string()));
            let all = ACTIONS.map(|(name, _)| format!("`{name}`")).join(", ");
            D::Error::custom(format!("then = `{given}` is unknown; the nearest of {all} is `{near}`"))
        })
    }
}
