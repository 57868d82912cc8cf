//! A small parser of Rust, which finds the paths that a source names.
//!
//! Comments and literals are separated first, so nothing in them is mistaken for code. Then `use`
//! trees are flattened, `super` and `self` are resolved by their module, and paths that begin with
//! an imported name are completed. Paths that macros generate are not found.

use std::collections::HashMap;

/// The kind of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word(String),
    /// A string literal's contents, as written.
    Text(String),
    /// A number, a character or a lifetime.
    Other,
    Mark(char),
    Comment(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

impl Token {
    pub(super) fn is(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }

    pub(super) fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Splits a source into tokens, including comments.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let begin = i;
        let kind = match at(i) {
            c if c.is_whitespace() => {
                i += 1;
                None
            }
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
                Some(Kind::Comment(chars[begin..i].iter().collect()))
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
                Some(Kind::Comment(chars[begin..i.min(chars.len())].iter().collect()))
            }
            '"' => Some(text(&chars, &mut i)),
            'r' | 'b' | 'c' if begins_text(&chars, i) => Some(text(&chars, &mut i)),
            '\'' => {
                let lifetime = is_word(at(i + 1)) && at(i + 2) != '\'';
                i += 1;
                if lifetime {
                    while is_word(at(i)) {
                        i += 1;
                    }
                } else {
                    i += if at(i) == '\\' { 2 } else { 1 };
                    while i < chars.len() && at(i) != '\'' {
                        i += 1;
                    }
                    i += 1;
                }
                Some(Kind::Other)
            }
            c if c.is_ascii_digit() => {
                while is_word(at(i)) || at(i) == '.' && at(i + 1).is_ascii_digit() {
                    i += 1;
                }
                Some(Kind::Other)
            }
            c if is_word(c) => {
                while is_word(at(i)) || i == begin + 1 && at(begin) == 'r' && at(i) == '#' {
                    i += 1;
                }
                Some(Kind::Word(chars[begin..i].iter().collect::<String>().replace("r#", "")))
            }
            c => {
                i += 1;
                Some(Kind::Mark(c))
            }
        };
        tokens.extend(kind.map(|kind| Token { line, kind }));
        line += chars[begin..i.min(chars.len())].iter().filter(|&&c| c == '\n').count();
    }
    tokens
}

/// Whether `r`, `b` or `c` here is the prefix of a string rather than the beginning of a word.
fn begins_text(chars: &[char], i: usize) -> bool {
    let rest: String = chars[i..].iter().take(8).collect();
    let rest = rest.trim_start_matches(['b', 'c']);
    let raw = rest.strip_prefix('r').map(|rest| rest.trim_start_matches('#'));
    rest.starts_with('"') || raw.is_some_and(|rest| rest.starts_with('"'))
}

/// Reads a string literal of any kind.
fn text(chars: &[char], i: &mut usize) -> Kind {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut raw = false;
    while matches!(at(*i), 'r' | 'b' | 'c') {
        raw |= at(*i) == 'r';
        *i += 1;
    }
    let hashes = chars[*i..].iter().take_while(|&&c| c == '#').count();
    *i += hashes + 1;
    let begin = *i;
    while *i < chars.len() {
        if !raw && at(*i) == '\\' {
            *i += 2;
        } else if at(*i) == '"' && (1..=hashes).all(|n| at(*i + n) == '#') {
            break;
        } else {
            *i += 1;
        }
    }
    let end = (*i).min(chars.len());
    *i = end + 1 + hashes;
    Kind::Text(chars[begin.min(end)..end].iter().collect())
}

/// A path that a source names, complete from the crate's root (`crate::…`) or from another crate's
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) path: Vec<String>,
    /// Whether it is in a `use`, rather than in code.
    pub(super) import: bool,
    /// Whether it ends with `::*`.
    pub(super) glob: bool,
    /// Whether only tests compile it.
    pub(super) test: bool,
}

/// All paths of at least two segments that a source names, and all its imports. `module` is the
/// source's own path, for instance `["crate", "db"]`.
pub(super) fn paths(tokens: &[Token], module: &[String]) -> Vec<Named> {
    let code: Vec<&Token> = tokens.iter().filter(|t| !matches!(t.kind, Kind::Comment(_))).collect();
    let mut walk = Walk { code: &code, imports: HashMap::new(), named: Vec::new() };
    let test_file = module.iter().any(|name| name == "tests");
    walk.walk(module, test_file);
    let Walk { imports, mut named, .. } = walk;
    for named in named.iter_mut().filter(|named| !named.import) {
        if let Some(full) = imports.get(&named.path[0]) {
            named.path.splice(0..1, full.iter().cloned());
        }
    }
    named
}

struct Walk<'t> {
    code: &'t [&'t Token],
    imports: HashMap<String, Vec<String>>,
    named: Vec<Named>,
}

/// The scope that a brace opened.
struct Scope {
    module: bool,
    test: bool,
}

impl Walk<'_> {
    /// Reads all tokens, and keeps track of the modules and imports in scope.
    fn walk(&mut self, module: &[String], test_file: bool) {
        let mut module = module.to_vec();
        let mut scopes: Vec<Scope> = Vec::new();
        let mut next_is_test = false;
        let mut i = 0;
        while i < self.code.len() {
            let token = self.code[i];
            let test = test_file || next_is_test || scopes.last().is_some_and(|scope| scope.test);
            match &token.kind {
                Kind::Mark('#') if self.spells(i, &["#", "[", "cfg", "(", "test", ")", "]"]) => next_is_test = true,
                Kind::Mark(';') => next_is_test = false,
                Kind::Mark('{') => {
                    scopes.push(Scope { module: false, test });
                    next_is_test = false;
                }
                Kind::Mark('}') => {
                    let closed = scopes.pop();
                    if closed.is_some_and(|scope| scope.module) {
                        module.pop();
                    }
                }
                Kind::Word(word) if word == "mod" && self.mark(i + 2, '{') => {
                    module.extend(self.code[i + 1].word().map(str::to_owned));
                    scopes.push(Scope { module: true, test });
                    next_is_test = false;
                    i += 2;
                }
                Kind::Word(word) if word == "use" && !self.mark(i + 1, '<') => {
                    i = self.tree(i + 1, &[], &module, test);
                    continue;
                }
                Kind::Word(_) => i = self.path(i, &module, test),
                _ => {}
            }
            i += 1;
        }
    }

    fn mark(&self, i: usize, mark: char) -> bool {
        self.code.get(i).is_some_and(|token| token.is(mark))
    }

    fn joined(&self, i: usize) -> bool {
        self.mark(i, ':') && self.mark(i + 1, ':')
    }

    fn spells(&self, i: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| {
            self.code.get(i + n).is_some_and(|token| match &token.kind {
                Kind::Word(found) => found == word,
                Kind::Mark(found) => word.len() == 1 && word.starts_with(*found),
                _ => false,
            })
        })
    }

    /// Reads a path in code. Returns the index of its last token.
    fn path(&mut self, mut i: usize, module: &[String], test: bool) -> usize {
        let field = i > 0 && self.mark(i - 1, '.') && !(i > 1 && self.mark(i - 2, '.'));
        let (begin, mut path) = (i, Vec::new());
        loop {
            path.extend(self.code[i].word().map(str::to_owned));
            if self.joined(i + 1) && self.code.get(i + 3).is_some_and(|next| next.word().is_some()) {
                i += 3;
            } else {
                break;
            }
        }
        let qualified = begin > 1 && self.joined(begin - 2);
        if path.len() > 1 && !field && !qualified {
            let line = self.code[begin].line;
            self.named.push(Named { line, path: resolve(&path, module), import: false, glob: false, test });
        }
        i
    }

    /// Reads one branch of a `use` tree, from its first segment. Returns the index after it.
    fn tree(&mut self, mut i: usize, stem: &[String], module: &[String], test: bool) -> usize {
        let mut path = stem.to_vec();
        let line = self.code.get(i).map_or(0, |token| token.line);
        while let Some(token) = self.code.get(i) {
            match &token.kind {
                Kind::Mark(':') => i += 1,
                Kind::Mark('{') => {
                    i += 1;
                    while !self.mark(i, '}') && i < self.code.len() {
                        i = self.tree(i, &path, module, test);
                        i += usize::from(self.mark(i, ','));
                    }
                    return i + 1;
                }
                Kind::Mark('*') => {
                    let path = resolve(&path, module);
                    self.named.push(Named { line, path, import: true, glob: true, test });
                    return i + 1;
                }
                Kind::Word(word) if word == "as" => {
                    let name = self.code.get(i + 1).and_then(|token| token.word()).unwrap_or("_").to_owned();
                    self.import(line, &path, name, module, test);
                    return i + 2;
                }
                // `a::{self}` is `a`.
                Kind::Word(word) if word == "self" && !path.is_empty() => i += 1,
                Kind::Word(word) => {
                    path.push(word.clone());
                    i += 1;
                }
                _ => break,
            }
        }
        if let Some(name) = path.last().cloned() {
            self.import(line, &path, name, module, test);
        }
        i
    }

    fn import(&mut self, line: usize, path: &[String], name: String, module: &[String], test: bool) {
        let path = resolve(path, module);
        self.imports.insert(name, path.clone());
        self.named.push(Named { line, path, import: true, glob: false, test });
    }
}

/// Resolves `self` and `super`.
fn resolve(path: &[String], module: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = path;
    match rest.first().map(String::as_str) {
        Some("self") => rest = &rest[1..],
        Some("super") => {
            while rest.first().is_some_and(|segment| segment == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return path.to_vec(),
    }
    base.extend_from_slice(rest);
    base
}
