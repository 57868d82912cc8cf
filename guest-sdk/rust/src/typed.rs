//! A serde deserializer for events: the event's type selects an enum's variant, and its data fills
//! it.
//!
//! It reads an externally tagged enum from two texts instead of one. JSON is parsed directly into
//! the variant's fields, which may borrow text from the event. An unknown type and data that does
//! not fit are distinguished by where reading fails: while the variant is looked up, or after that.
//! A variant without fields accepts any data, unread.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, EnumAccess, VariantAccess, Visitor, value::BorrowedStrDeserializer},
    forward_to_deserialize_any,
};
use serde_json::de::StrRead;

use crate::Failure;

/// Parses an event into the variant that its type names. `None` if there is no such variant.
pub(crate) fn read<'de, E: Deserialize<'de>>(event_type: &'de str, data: &'de str) -> Result<Option<E>, Failure> {
    match E::deserialize(Tagged { event_type, data, asked: None }) {
        Ok(event) => Ok(Some(event)),
        Err(Error::UnknownType) => Ok(None),
        Err(Error::Data(error)) => Err(Failure::skip("invalid-data", format!("{event_type}: {error}"))),
        Err(Error::NotAnEnum) => Err(Failure::stop("not-an-enum", NOT_AN_ENUM)),
    }
}

pub(crate) const NOT_AN_ENUM: &str = "the type of events is not an enum with a variant per event type. Use an enum without \
     `#[serde(tag)]` and `#[serde(untagged)]`, or `Event::data` for a type of any shape.";

/// The event types for which an enum has variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The names of its variants, including aliases (`#[serde(alias)]`).
    Named(&'static [&'static str]),
    /// Every type: a variant has `#[serde(other)]`.
    Every,
}

/// The event types that an enum knows. `None` if `E` is not an externally tagged enum.
pub(crate) fn known<'de, E: Deserialize<'de>>() -> Option<Known> {
    let mut known = None;
    // No event has an empty type, so an enum that accepts it accepts any. The result is always an
    // error, as there is no data.
    let _ = E::deserialize(Tagged { event_type: "", data: "", asked: Some(&mut known) });
    known
}

/// An event as a serde deserializer. Or no event, to ask for the types that an enum knows.
struct Tagged<'de, 'a> {
    event_type: &'de str,
    data: &'de str,
    asked: Option<&'a mut Option<Known>>,
}

impl<'de> Deserializer<'de> for Tagged<'de, '_> {
    type Error = Error;

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Some(known) = &mut self.asked {
            **known = Some(Known::Named(variants));
        }
        visitor.visit_enum(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::NotAnEnum)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Tagged<'de, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        match (seed.deserialize(BorrowedStrDeserializer::<NoVariant>::new(self.event_type)), self.asked) {
            (Ok(variant), None) => Ok((variant, Tagged { asked: None, ..self })),
            (Ok(_), Some(known)) => {
                *known = Some(Known::Every);
                Err(Error::UnknownType)
            }
            (Err(NoVariant), _) => Err(Error::UnknownType),
        }
    }
}

impl<'de> VariantAccess<'de> for Tagged<'de, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|json| json.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content(|json| json.deserialize_struct("", fields, visitor))
    }
}

type Json<'de> = serde_json::Deserializer<StrRead<'de>>;

impl<'de> Tagged<'de, '_> {
    fn content<T>(self, read: impl FnOnce(&mut Json<'de>) -> Result<T, serde_json::Error>) -> Result<T, Error> {
        let mut json = Json::from_str(self.data);
        let content = read(&mut json).map_err(Error::Data)?;
        json.end().map_err(Error::Data)?;
        Ok(content)
    }
}

/// The reason why an event could not be parsed.
#[derive(Debug)]
enum Error {
    UnknownType,
    NotAnEnum,
    Data(serde_json::Error),
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::Data(de::Error::custom(message))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnknownType => f.write_str("unknown event type"),
            Error::NotAnEnum => f.write_str(NOT_AN_ENUM),
            Error::Data(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// The only error of looking up a variant. It drops the derived implementation's message, so it
/// costs nothing.
#[derive(Debug)]
struct NoVariant;

impl de::Error for NoVariant {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        NoVariant
    }

    fn unknown_variant(_variant: &str, _expected: &'static [&'static str]) -> Self {
        NoVariant
    }
}

impl fmt::Display for NoVariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such variant")
    }
}

impl std::error::Error for NoVariant {}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    enum Cart<'e> {
        ItemAdded {
            #[serde(borrow)]
            sku: Cow<'e, str>,
            quantity: u64,
        },
        #[serde(rename = "cart.noted", alias = "Noted")]
        Noted(Note<'e>),
        Moved(u8, u8),
        CheckedOut,
        #[serde(skip)]
        #[expect(dead_code, reason = "no event has this type, which is what is tested")]
        Internal,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Note<'e> {
        text: &'e str,
        kind: Kind,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Kind {
        Short,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Loose {
        Seen,
        #[serde(other)]
        Other,
    }

    fn ok<'de>(event_type: &'de str, data: &'de str) -> Option<Cart<'de>> {
        read(event_type, data).unwrap()
    }

    fn skipped(event_type: &str, data: &str) -> String {
        match read::<Cart<'_>>(event_type, data) {
            Err(Failure::Skip(skip)) => format!("{}: {}", skip.code, skip.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_type_selects_the_variant_and_the_data_fills_it() {
        let added = ok("ItemAdded", r#" {"note":[{}],"quantity":2,"sku":"a"} "#);
        let Some(Cart::ItemAdded { sku: Cow::Borrowed("a"), quantity: 2 }) = added else { panic!("{added:?}") };
        let escaped = ok("ItemAdded", r#"{"quantity":1,"sku":"\"a\""}"#);
        assert_eq!(escaped, Some(Cart::ItemAdded { sku: "\"a\"".into(), quantity: 1 }));
        let noted = Some(Cart::Noted(Note { text: "b", kind: Kind::Short }));
        assert_eq!(ok("cart.noted", r#"{"text":"b","kind":"Short"}"#), noted);
        assert_eq!(ok("Noted", r#"{"text":"b","kind":"Short"}"#), noted);
        assert_eq!(ok("Moved", "[1,2]"), Some(Cart::Moved(1, 2)));
        for data in ["{}", r#"{"at":"noon"}"#, "null", "[1]"] {
            assert_eq!(ok("CheckedOut", data), Some(Cart::CheckedOut));
        }
    }

    #[test]
    fn an_unknown_type_is_none_and_data_that_does_not_fit_is_skipped() {
        for event_type in ["ItemLost", "itemAdded", "Internal", ""] {
            assert_eq!(ok(event_type, "{}"), None);
        }
        assert_eq!(
            skipped("ItemAdded", r#"{"sku":"a"}"#),
            "invalid-data: ItemAdded: missing field `quantity` at line 1 column 11"
        );
        assert!(
            skipped("ItemAdded", "7")
                .starts_with("invalid-data: ItemAdded: invalid type: integer `7`, expected struct variant")
        );
        let nested = skipped("cart.noted", r#"{"text":"b","kind":"Long"}"#);
        assert!(nested.starts_with("invalid-data: cart.noted: unknown variant `Long`, expected `Short`"), "{nested}");
        assert!(skipped("ItemAdded", r#"{"sku":"a","quantity":1} {}"#).contains("trailing characters"));
    }

    #[test]
    fn data_that_is_read_has_a_depth_limit_and_ignored_data_has_none() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let passed_over = format!(r#"{{"sku":"a","note":{},"reading":1e400,"quantity":2}}"#, nested(5_000));
        assert_eq!(ok("ItemAdded", &passed_over), Some(Cart::ItemAdded { sku: "a".into(), quantity: 2 }));

        #[derive(Debug, Deserialize)]
        enum Any {
            Any(serde_json::Value),
        }
        let read_any = |data: &str| read::<Any>("Any", data).map(|any| any.map(|Any::Any(value)| value.is_array()));
        assert_eq!(read_any(&nested(127)).ok(), Some(Some(true)));
        let Err(Failure::Skip(skip)) = read_any(&nested(512)) else { panic!("it is too deep") };
        assert_eq!(skip.code, "invalid-data");
        assert!(skip.message.starts_with("Any: recursion limit exceeded"), "{}", skip.message);
    }

    #[test]
    fn known_types_are_variants_aliases_or_every_type() {
        assert_eq!(
            known::<Cart<'_>>(),
            Some(Known::Named(&["ItemAdded", "Noted", "cart.noted", "Moved", "CheckedOut"]))
        );
        assert_eq!(known::<Box<Cart<'_>>>(), known::<Cart<'_>>());
        assert_eq!(known::<Loose>(), Some(Known::Every));
        assert_eq!(read::<Loose>("Seen", "{}").unwrap(), Some(Loose::Seen));
        assert_eq!(read::<Loose>("Unheard", "{}").unwrap(), Some(Loose::Other));
        assert_eq!(known::<Note<'_>>(), None);
        let Err(Failure::Halt(halt)) = read::<Note<'_>>("Noted", "{}") else { panic!("it is no enum") };
        assert_eq!(halt.code, "not-an-enum");
    }
}
