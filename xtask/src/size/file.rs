//! The measures of one file, from its syntax tree.

use std::collections::BTreeSet;
use std::fmt;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item};

/// Something with a size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) size: usize,
}

impl Named {
    /// Becomes the other, if that is larger.
    pub(super) fn raise(&mut self, other: &Self) {
        if other.size > self.size {
            self.clone_from(other);
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.size == 0 {
            return f.write_str("-");
        }
        write!(f, "{} {}", self.size, self.name)
    }
}

/// What was counted. Lines of code are those with a token that is no documentation.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Lines of production code.
    pub(super) code: usize,
    /// Lines of test code.
    pub(super) test: usize,
    /// Lines of documentation.
    pub(super) doc: usize,
    /// All lines, those of tests left out; of one file only.
    pub(super) length: usize,
    /// `unsafe { … }` in production code.
    pub(super) unsafe_blocks: usize,
    /// The production trait with the most methods.
    pub(super) widest_trait: Named,
    /// The production error type with the most variants.
    pub(super) largest_error: Named,
}

impl Counts {
    /// Adds another's; of named things the larger stays.
    pub(super) fn add(&mut self, other: &Self) {
        self.code += other.code;
        self.test += other.test;
        self.doc += other.doc;
        self.unsafe_blocks += other.unsafe_blocks;
        self.widest_trait.raise(&other.widest_trait);
        self.largest_error.raise(&other.largest_error);
    }
}

/// The names of modules in other files that are compiled for tests only.
pub(super) fn test_modules(file: &syn::File) -> Vec<String> {
    file.items
        .iter()
        .filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() && is_test(&module.attrs) => {
                Some(module.ident.to_string())
            }
            _ => None,
        })
        .collect()
}

/// Counts a file; `all_test` when it belongs to tests as a whole.
pub(super) fn count(text: &str, file: &syn::File, all_test: bool) -> Counts {
    let mut walk = Walk {
        all_test,
        ..Walk::default()
    };
    walk.visit_file(file);
    let mut lines = Lines::default();
    if let Ok(tokens) = text.parse() {
        lines.take(tokens);
    }
    let in_test = |line: &usize| all_test || walk.test_lines.contains(line);
    let test = lines.code.iter().filter(|line| in_test(line)).count();
    let mut counts = walk.counts;
    counts.test = test;
    counts.code = lines.code.len() - test;
    counts.doc = lines.doc.difference(&lines.code).count();
    counts.length = if all_test {
        0
    } else {
        text.lines().count() - walk.test_lines.len()
    };
    counts
}

/// Which lines have documentation, and which have other tokens.
#[derive(Debug, Default)]
struct Lines {
    code: BTreeSet<usize>,
    doc: BTreeSet<usize>,
}

impl Lines {
    fn take(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            // The lexer turns `/// text` into `#[doc = "text"]` and `//! text` into `#![doc = "text"]`.
            if matches!(&token, TokenTree::Punct(p) if p.as_char() == '#') {
                let next_if =
                    tokens.next_if(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == '!'));
                if let Some(TokenTree::Group(group)) = tokens.peek()
                    && is_doc(group)
                {
                    self.doc.extend(lines_of(group.span()));
                    tokens.next();
                    continue;
                }
                self.code.extend(lines_of(token.span()));
                self.code
                    .extend(next_if.iter().flat_map(|t| lines_of(t.span())));
                continue;
            }
            match token {
                TokenTree::Group(group) => {
                    self.code.extend(lines_of(group.span_open()));
                    self.code.extend(lines_of(group.span_close()));
                    self.take(group.stream());
                }
                // A string may go over many lines.
                other => self.code.extend(lines_of(other.span())),
            }
        }
    }
}

fn is_doc(group: &proc_macro2::Group) -> bool {
    let mut inside = group.stream().into_iter();
    matches!(inside.next(), Some(TokenTree::Ident(name)) if name == "doc")
        && matches!(inside.next(), Some(TokenTree::Punct(p)) if p.as_char() == '=')
}

fn lines_of(span: Span) -> std::ops::RangeInclusive<usize> {
    span.start().line..=span.end().line
}

/// Walks the tree and keeps production and tests apart.
#[derive(Debug, Default)]
struct Walk {
    all_test: bool,
    test_lines: BTreeSet<usize>,
    counts: Counts,
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            self.test_lines.extend(lines_of(item.span()));
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        if !self.all_test {
            self.counts.unsafe_blocks += 1;
        }
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if !self.all_test {
            let methods = item.items.iter();
            self.counts.widest_trait.raise(&Named {
                name: item.ident.to_string(),
                size: methods
                    .filter(|i| matches!(i, syn::TraitItem::Fn(_)))
                    .count(),
            });
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        let name = item.ident.to_string();
        let is_error = name.ends_with("Error") || item.attrs.iter().any(derives_error);
        if is_error && !self.all_test {
            self.counts.largest_error.raise(&Named {
                name,
                size: item.variants.len(),
            });
        }
    }
}

/// Whether `#[derive(…)]` has `Error` in it.
fn derives_error(attribute: &Attribute) -> bool {
    attribute.path().is_ident("derive") && words(attribute).contains("Error")
}

/// Whether an item is there for tests only: `#[test]`, or a `cfg` that asks for `test` or `test-utils`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let words = words(attribute);
        path.is_ident("test")
            || path.is_ident("cfg")
                && !words.contains("not")
                && (words.contains("test") || words.contains("\"test-utils\""))
    })
}

/// The identifiers and literals in an attribute's list.
fn words(attribute: &Attribute) -> BTreeSet<String> {
    fn collect(tokens: TokenStream, into: &mut BTreeSet<String>) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => collect(group.stream(), into),
                TokenTree::Ident(word) => {
                    into.insert(word.to_string());
                }
                TokenTree::Literal(word) => {
                    into.insert(word.to_string());
                }
                TokenTree::Punct(_) => {}
            }
        }
    }
    let mut words = BTreeSet::new();
    if let syn::Meta::List(list) = &attribute.meta {
        collect(list.tokens.clone(), &mut words);
    }
    words
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"//! A file.
//! Two lines.

/// Documented.
pub trait Wide {
    /// One.
    fn one(&self);
    fn two(&self) {}
}

// A comment.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    A, // here
    B,
}

fn code() {
    let text = "two
lines";
    unsafe { call(text) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn works() {
        unsafe { call("") }
    }
}

#[cfg(test)]
mod outside;
"#;

    fn counted(all_test: bool) -> Counts {
        count(SOURCE, &syn::parse_file(SOURCE).unwrap(), all_test)
    }

    #[test]
    fn lines_are_told_apart() {
        let counts = counted(false);
        assert_eq!((counts.code, counts.test, counts.doc), (14, 9, 4));
        assert_eq!(counts.length, SOURCE.lines().count() - 9);
        assert_eq!(counted(true).code, 0);
    }

    #[test]
    fn things_are_found() {
        let counts = counted(false);
        assert_eq!(counts.unsafe_blocks, 1);
        assert_eq!(counts.widest_trait.to_string(), "2 Wide");
        assert_eq!(counts.largest_error.to_string(), "2 Wrong");
        let file = syn::parse_file(SOURCE).unwrap();
        assert_eq!(test_modules(&file), ["outside"]);
    }
}
