//! Tests of partition keys: every rule of RFC 6901 and of equality, and texts that only look like a
//! match.

use std::collections::BTreeSet;

use super::*;

fn key(pointer: &str, data: &str) -> String {
    Pointer::parse(pointer).key(data).unwrap().into_owned()
}

#[test]
fn the_key_does_not_depend_on_other_data() {
    let (deep, long) = (format!("{}{}", "[".repeat(6_000), "]".repeat(6_000)), "9".repeat(5_000));
    for other in ["1", "1e400", "-1e-99999999999999999999", &long, &deep, r#""\\\"}""#, r#"{"door":"south"}"#] {
        for data in [
            format!(r#"{{"door":"north","reading":{other}}}"#),
            format!(r#" {{ "reading" : {other} , "door" : "north" }} "#),
            format!(r#"{{"door":{other},"door":"north"}}"#),
            format!(r#"{{"\ud83d":{other},"door":"north","\u0000":"\udc00"}}"#),
        ] {
            assert_eq!(key("/door", &data), "north", "{data:.60}");
        }
    }
}

#[test]
fn a_pointer_follows_rfc_6901() {
    let data = r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2,"i\\j":5,"k\"l":6," ":7,"m~n":8,"0":9,"\u00fc":10,"a":{"b":[[],[11]]}}"#;
    let found = [
        ("/foo/0", "bar"),
        ("/foo/1", "baz"),
        ("/", "0"),
        ("/a~1b", "1"),
        ("/c%d", "2"),
        ("/i\\j", "5"),
        ("/k\"l", "6"),
        ("/ ", "7"),
        ("/m~0n", "8"),
        ("/0", "9"),
        ("/ü", "10"),
        ("/a/b/1/0", "11"),
        ("/foo", r#"["bar","baz"]"#),
    ];
    for (pointer, expected) in found {
        assert_eq!(key(pointer, data), expected, "{pointer}");
    }
    let absent =
        ["/foo/2", "/foo/00", "/foo/01", "/foo/-", "/foo/+1", "/foo/", "/foo/0/0", "/a/b/0/0", "/b", "/A", "//0"];
    for pointer in absent {
        assert_eq!(key(pointer, data), "", "{pointer}");
    }
    assert_eq!(key("", r#" {"b":1.0,"a":"x"} "#), r#"{"a":"x","b":1}"#);
    assert_eq!(key("/~01", r#"{"~1":"escaped once"}"#), "escaped once");
    assert_eq!(key("/18446744073709551616", "[1]"), "");
    for data in ["7", "null", "true", r#""text""#, "[]", "{}"] {
        assert_eq!(key("/a", data), "", "{data}");
    }
}

#[test]
fn the_last_value_of_a_repeated_name_counts() {
    assert_eq!(key("/a", r#"{"a":1,"\u0061":2}"#), "2");
    assert_eq!(key("/a/b", r#"{"a":{"b":1},"a":{"c":2}}"#), "");
    assert_eq!(key("/a", r#"{"a":{"b":1,"b":[2],"a":3}}"#), r#"{"a":3,"b":[2]}"#);
}

#[test]
fn values_have_the_same_key_if_and_only_if_they_are_equal() {
    let hundred_zeros = format!("1{}", "0".repeat(100));
    let equal: [&[&str]; 15] = [
        &["1", "1.0", "1.000", "1e0", "10e-1", "0.1E+1", "100e-2", "1e00000000000000000000000", r#""1""#],
        &["0", "-0", "0.0", "-0e9999999999999999999", "0e-5"],
        &["-5", "-5.0", "-0.5e1"],
        &["12345678901234567890123", "12345678901234567890123.0"],
        &["12345678901234567890124"],
        &["0.1", "1e-1", "0.10"],
        &["0.10000000000000000000000000000000000000001"],
        &["1e100", "1.0e+100", "10e99", &hundred_zeros],
        &["1e1000000000", "0.1e1000000001"],
        &["1.5e-1000000000", "15e-1000000001"],
        &["true", r#""true""#],
        &["null", r#""""#],
        &[r#""é😀""#, r#""\u00e9\ud83d\ude00""#, r#""\u00E9😀""#],
        &[r#"{"a":[1,{"c":null}],"b":"/"}"#, r#" { "b" : "\/" , "a" : [ 1.0 , { "c":null } ] } "#],
        &["[]", "[ ]"],
    ];
    let mut keys: Vec<String> = Vec::new();
    for spellings in equal {
        let alike: Vec<String> = spellings.iter().map(|text| key("/0", &format!("[{text}]"))).collect();
        assert!(alike.iter().all(|key| *key == alike[0]), "{spellings:?}: {alike:?}");
        keys.push(alike[0].clone());
    }
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), equal.len(), "{keys:?}");
    let texts = ["1", "0", "-5", "12345678901234567890123", "12345678901234567890124", "0.1"];
    assert_eq!(keys[..6], texts, "short numbers have no exponent");
    assert_eq!(keys[7..10], ["1e100", "1e1000000000", "1.5e-1000000000"], "large exponents stay exponents");
}

#[test]
fn huge_exponents_are_compared_as_they_are_spelled() {
    for spelled in ["1e9999999999999999999", "1E-9999999999999999999"] {
        assert_eq!(key("", spelled), spelled);
    }
}

#[test]
fn a_long_value_has_a_short_and_unique_key() {
    let long = |last: &str| key("/0", &format!(r#"["{}{last}"]"#, "ü".repeat(5_000)));
    assert_ne!(long("x"), long("y"), "they begin alike and must differ");
    assert!(long("x").starts_with(&"ü".repeat(256)) && long("x").len() == 512 + 3 + 64, "{}", long("x"));
    // Cut before the character that would not fit whole.
    assert_eq!(key("/0", &format!(r#"["x{}"]"#, "😀".repeat(200))).len(), 509 + 3 + 64);
    let whole = "k".repeat(KEY_BYTES);
    assert_eq!(key("/0", &format!(r#"["{whole}"]"#)), whole);
    // A value that imitates a shortened key is itself too long to be kept whole.
    let imitation = long("x");
    assert_ne!(key("/0", &format!(r#"["{imitation}"]"#)), imitation);
    let number = |last: u8| key("/0", &format!("[{}{last}]", "1".repeat(600)));
    assert_ne!(number(1), number(2));
}

#[test]
fn deeply_nested_values_are_compared_as_they_are_spelled() {
    let at = |levels: usize, inner: &str| key("", &format!("{}{inner}{}", "[ ".repeat(levels), " ]".repeat(levels)));
    assert_eq!(at(6_000, "1"), at(6_000, "1"));
    assert_ne!(at(6_000, "1"), at(6_000, "2"));
    assert_eq!(at(LEVELS, "1"), at(LEVELS, "1.0"));
    assert_ne!(at(LEVELS + 1, "1"), at(LEVELS + 1, "1.0"));
    assert_eq!(at(LEVELS + 1, r#"{ "b" : " \" " }"#), at(LEVELS + 1, r#"{"b":" \" "}"#));
}

#[test]
fn unreadable_data_has_no_key() {
    let rejected = |data: &str| Pointer::parse("/a").key(data).unwrap_err().to_string();
    assert_eq!(rejected(""), "expected a value at byte 0");
    assert_eq!(rejected(r#"{"a":"b""#), "expected `,` or `}` at byte 8");
    assert_eq!(rejected(r#"{"a":"b"#), "expected `\"` at byte 7");
    assert_eq!(rejected(r#"{"a" "b"}"#), "expected `:` at byte 5");
    assert_eq!(rejected(r#"{"a":nul}"#), "expected a value at byte 5");
    assert_eq!(rejected(r#"{"a":"\ud83d"}"#), "expected a string without half a surrogate pair at byte 5");
    assert_eq!(rejected(r#"{"a":"\u0000"}"#), "expected a key without U+0000 at byte 13");
    for number in ["01", "1.", ".5", "+1", "-", "1e", "1e+", "0x1", "1.e1", "--1", "1ee1"] {
        assert!(Pointer::parse("/a").key(&format!(r#"{{"a":{number}}}"#)).is_err(), "{number}");
    }
    for data in ["nonsense", "{", r#"{"a""#, r#"{"b":[[}"#, r#"{"b":1 2}"#, r#"{"a":"\"#] {
        assert!(Pointer::parse("/a").key(data).is_err(), "{data}");
    }
}

/// On every short text that serde_json parses, the pointer finds the same value as in serde_json.
#[test]
fn agrees_with_serde_json_on_short_texts() {
    fn grow(text: &mut Vec<u8>, alphabet: &[u8], pointers: &[(&str, Pointer)], left: usize) {
        let word = std::str::from_utf8(text).unwrap();
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(word) {
            for (text, pointer) in pointers {
                let found = pointer.key(word).unwrap();
                match value.pointer(text) {
                    None | Some(serde_json::Value::Null) => assert_eq!(found, "", "{word} {text}"),
                    Some(serde_json::Value::String(text)) => assert_eq!(found, *text, "{word} {text}"),
                    Some(other) => {
                        let other = other.to_string();
                        // serde_json spells some numbers differently.
                        assert!(
                            found == other || other.contains(['.', 'e', '-']),
                            "{word} {text}: {found}, not {other}"
                        );
                    }
                }
            }
        }
        if left > 0 {
            for c in alphabet {
                text.push(*c);
                grow(text, alphabet, pointers, left - 1);
                text.pop();
            }
        }
    }
    let alphabet = [b'{', b'}', b'[', b']', b'"', b':', b',', b'1', b'-', b'.', b'e', b' ', b'a'];
    let pointers = ["/a", "/1", ""].map(|text| (text, Pointer::parse(text)));
    for (whole, more) in [("", 5), (r#"{"1":"#, 4), (r#"{"a":"#, 4), ("[1,", 4)] {
        grow(&mut whole.as_bytes().to_vec(), &alphabet, &pointers, more);
    }
}
