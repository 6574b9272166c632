//! The syntax of `xl.cfg`: `key = value`, one to a line or parted by semicolons, with `#` comments. A value is a text in
//! single or double quotes, a number, or a list of these in brackets, which may go over several lines.

use std::iter::Peekable;
use std::str::Chars;

/// `key = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    /// The line that the key is in, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Atom(Atom),
    /// Each with its line.
    List(Vec<(usize, Atom)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Atom {
    Text(String),
    Number(u64),
}

/// What is wrong, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) message: String,
}

/// The settings in `text`, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<Setting>, SyntaxError> {
    let mut parser = Parser {
        rest: text.chars().peekable(),
        line: 1,
    };
    let mut settings = Vec::new();
    loop {
        parser.skip(|c| c == '\n' || c == ';');
        if parser.rest.peek().is_none() {
            return Ok(settings);
        }
        settings.push(parser.setting()?);
        parser.skip(|_| false);
        match parser.next() {
            None | Some('\n' | ';') => {}
            Some(c) => return parser.fail(format!("{c:?} behind the value")),
        }
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl Parser<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError {
            line: self.line,
            message: message.into(),
        })
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    /// Skips blanks, comments and what `also` names.
    fn skip(&mut self, also: impl Fn(char) -> bool) {
        while let Some(&c) = self.rest.peek() {
            if c == '#' {
                while self.rest.next_if(|c| *c != '\n').is_some() {}
            } else if matches!(c, ' ' | '\t' | '\r') || also(c) {
                self.next();
            } else {
                return;
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self
            .rest
            .next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            word.push(c);
        }
        word
    }

    fn setting(&mut self) -> Result<Setting, SyntaxError> {
        let line = self.line;
        let key = self.word();
        if !key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            let found: String = key.chars().chain(self.rest.peek().copied()).collect();
            return self.fail(format!("a key is expected, not {found:?}"));
        }
        self.skip(|_| false);
        if self.rest.next_if_eq(&'=').is_none() {
            return self.fail(format!("\"=\" is expected behind {key:?}"));
        }
        self.skip(|_| false);
        let value = match self.rest.next_if_eq(&'[') {
            Some(_) => Value::List(self.list()?),
            None => Value::Atom(self.atom()?),
        };
        Ok(Setting { key, line, value })
    }

    /// The rest of a list behind its bracket; a comma may stand behind the last element.
    fn list(&mut self) -> Result<Vec<(usize, Atom)>, SyntaxError> {
        let opened = self.line;
        let mut items = Vec::new();
        loop {
            self.skip(|c| c == '\n');
            if self.rest.next_if_eq(&']').is_some() {
                return Ok(items);
            }
            if self.rest.peek().is_none() {
                return Err(SyntaxError {
                    line: opened,
                    message: "this list has no end".into(),
                });
            }
            items.push((self.line, self.atom()?));
            self.skip(|c| c == '\n');
            if self.rest.next_if_eq(&',').is_none() && self.rest.peek().is_some_and(|c| *c != ']') {
                return self.fail("a comma is expected between the elements of a list");
            }
        }
    }

    fn atom(&mut self) -> Result<Atom, SyntaxError> {
        match self.rest.peek() {
            Some(&quote @ ('\'' | '"')) => {
                self.next();
                self.text(quote).map(Atom::Text)
            }
            Some(c) if c.is_ascii_digit() => {
                let word = self.word();
                let number = match word.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => word.parse(),
                };
                match number {
                    Ok(number) => Ok(Atom::Number(number)),
                    Err(_) => self.fail(format!("{word:?} is no number")),
                }
            }
            Some('[') => self.fail("a list in a list is not supported"),
            _ => self.fail("a value is expected: a text in quotes, a number or a list"),
        }
    }

    /// The rest of a text behind its first quote.
    fn text(&mut self, quote: char) -> Result<String, SyntaxError> {
        let mut text = String::new();
        loop {
            match self.rest.next() {
                None | Some('\n') => return self.fail("this text has no end"),
                Some(c) if c == quote => return Ok(text),
                Some('\\') => match self.rest.next() {
                    Some(c @ ('\\' | '\'' | '"')) => text.push(c),
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    _ => return self.fail("\"\\\" stands only before a quote, \"\\\", n or t"),
                },
                Some(c) => text.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Value {
        Value::Atom(Atom::Text(text.into()))
    }

    fn setting(line: usize, key: &str, value: Value) -> Setting {
        Setting {
            key: key.into(),
            line,
            value,
        }
    }

    fn error(input: &str) -> (usize, String) {
        let error = parse(input).unwrap_err();
        (error.line, error.message)
    }

    #[test]
    fn values_of_each_kind() {
        let input = "# a guest\nname = 'one'; memory=512\n\nextra=\"a 'b' \\\"c\\\\\" # text\nn=0x1F\r\nlist=[]";
        assert_eq!(
            parse(input).unwrap(),
            [
                setting(2, "name", text("one")),
                setting(2, "memory", Value::Atom(Atom::Number(512))),
                setting(4, "extra", text("a 'b' \"c\\")),
                setting(5, "n", Value::Atom(Atom::Number(31))),
                setting(6, "list", Value::List(vec![])),
            ]
        );
    }

    #[test]
    fn a_list_goes_over_lines_and_its_elements_keep_theirs() {
        let input = "disk = [\n  'a', # first\n\n  'b', 3,\n]\nname='x'";
        let items = vec![
            (2, Atom::Text("a".into())),
            (4, Atom::Text("b".into())),
            (4, Atom::Number(3)),
        ];
        assert_eq!(
            parse(input).unwrap(),
            [
                setting(1, "disk", Value::List(items)),
                setting(6, "name", text("x"))
            ]
        );
    }

    #[test]
    fn an_empty_file_has_no_settings() {
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("\n # nothing\n;;\n").unwrap(), []);
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(error("a=1\nb='x\ny=2").0, 2);
        assert_eq!(
            error("a=1\nl=['x',\n'y'\n"),
            (2, "this list has no end".into())
        );
        assert_eq!(error("a=1\nl=['x'\n'y']").0, 3);
        assert_eq!(error("a=1 b=2"), (1, "'b' behind the value".into()));
        assert_eq!(error("\na 1"), (2, "\"=\" is expected behind \"a\"".into()));
        assert_eq!(error("= 1"), (1, "a key is expected, not \"=\"".into()));
        assert_eq!(error("1a = 1").0, 1);
        assert_eq!(error("a = pvh").0, 1);
        assert_eq!(error("a = 12k"), (1, "\"12k\" is no number".into()));
        assert_eq!(error("a = 99999999999999999999").0, 1);
        assert_eq!(
            error("a = [[1]]"),
            (1, "a list in a list is not supported".into())
        );
        assert_eq!(error("a += 'b'").0, 1);
        assert_eq!(error("a = '\\q'").0, 1);
    }

    fn atom() -> impl Strategy<Value = Atom> {
        prop_oneof![
            any::<u64>().prop_map(Atom::Number),
            "[^\\r]{0,12}".prop_map(Atom::Text)
        ]
    }

    fn print(atom: &Atom) -> String {
        match atom {
            Atom::Number(number) => number.to_string(),
            Atom::Text(text) => {
                let text = text
                    .replace('\\', "\\\\")
                    .replace('\'', "\\'")
                    .replace('\n', "\\n");
                format!("'{text}'")
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn near_misses_never_panic(text in "[a='\"\\[\\],#;\\\\\n 0x]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_printed_is_read_back(
            settings in proptest::collection::vec(("[a-z_][a-z0-9_]{0,6}", proptest::collection::vec(atom(), 0..4), any::<bool>()), 0..6)
        ) {
            let mut input = String::new();
            let mut expected = Vec::new();
            for (index, (key, atoms, list)) in settings.into_iter().enumerate() {
                let line = index + 1;
                let value = match atoms.as_slice() {
                    [atom] if !list => {
                        input.push_str(&format!("{key} = {}\n", print(atom)));
                        Value::Atom(atom.clone())
                    }
                    _ => {
                        let items: Vec<String> = atoms.iter().map(print).collect();
                        input.push_str(&format!("{key}=[{}]\n", items.join(" , ")));
                        Value::List(atoms.into_iter().map(|atom| (line, atom)).collect())
                    }
                };
                expected.push(Setting { key, line, value });
            }
            prop_assert_eq!(parse(&input).unwrap(), expected);
        }
    }
}
