//! Decides whether an item only exists in tests.
//!
//! A `cfg` condition is evaluated with `test` as false and everything else as unknown. If it is then false for certain,
//! the item only exists in tests, and the checks of the product's structure leave it out.

use syn::{Attribute, Meta, Token, punctuated::Punctuated};

/// Returns whether an item with these attributes only exists in tests.
pub fn only_in_tests(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| attribute.path().segments.last().is_some_and(|last| last.ident == "test");
    attributes.iter().any(|attribute| {
        is_test(attribute)
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<Meta>().is_ok_and(|condition| holds(&condition) == Some(false))
    })
}

/// Returns whether a condition holds outside tests; None if that depends on something else.
fn holds(condition: &Meta) -> Option<bool> {
    match condition {
        Meta::Path(path) if path.is_ident("test") => Some(false),
        Meta::List(list) => {
            let inner = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
            let mut parts = inner.iter().map(holds);
            if list.path.is_ident("not") {
                return parts.next()?.map(|part| !part);
            }
            let all = list.path.is_ident("all");
            let parts: Vec<_> = parts.collect();
            match () {
                () if parts.contains(&Some(!all)) => Some(!all),
                () if parts.contains(&None) => None,
                () => Some(all),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(attribute: &str, expected: bool) {
        let item: syn::ItemStruct = syn::parse_str(&format!("{attribute} struct X;")).unwrap();
        assert_eq!(only_in_tests(&item.attrs), expected, "{attribute}");
    }

    #[test]
    fn an_item_whose_condition_needs_test_only_exists_in_tests() {
        check("#[cfg(test)]", true);
        check("#[cfg(all(test, unix))]", true);
        check("#[cfg(not(not(test)))]", true);
        check("#[test]", true);
        check("#[tokio::test]", true);
        check("#[cfg(any(test, unix))]", false);
        check("#[cfg(not(test))]", false);
        check("#[cfg(feature = \"test\")]", false);
    }
}
