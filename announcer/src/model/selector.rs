//! Label selectors, as Kubernetes matches them.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{objects::Labels, problem::Complaint};

/// The label that every node carries with its name.
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label that every namespace carries with its name.
pub(super) const NAMESPACE: &str = "kubernetes.io/metadata.name";

/// Whether the labels satisfy every part of the selector; an empty selector matches everything.
pub(super) fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether any of the selectors matches.
pub(super) fn any_matches(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.iter().any(|selector| matches(selector, labels))
}

/// The node names that selectors ask for by [`HOSTNAME`]: nodes that exist whether or not there is an object for them.
pub(super) fn named_hosts(selectors: &[LabelSelector]) -> BTreeSet<String> {
    let labels = selectors.iter().flat_map(|one| one.match_labels.iter().flatten());
    let by_label = labels.filter(|(key, _)| key.as_str() == HOSTNAME).map(|(_, value)| value.clone());
    let expressions = selectors.iter().flat_map(|one| one.match_expressions.iter().flatten());
    let by_expression = expressions
        .filter(|one| one.key == HOSTNAME && one.operator == "In")
        .flat_map(|one| one.values.iter().flatten().cloned());
    by_label.chain(by_expression).collect()
}

/// Complaints about a selector that could never mean anything.
pub(super) fn vet(field: &str, selectors: &[LabelSelector]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (index, selector) in selectors.iter().enumerate() {
        for (number, one) in selector.match_expressions.iter().flatten().enumerate() {
            let at = format!("{field}[{index}].matchExpressions[{number}]");
            let values = one.values.as_ref().is_some_and(|values| !values.is_empty());
            match one.operator.as_str() {
                "In" | "NotIn" if values => {}
                "Exists" | "DoesNotExist" if !values => {}
                "In" | "NotIn" => {
                    complaints.push(Complaint::error(at, format_args!("operator {} needs values", one.operator)));
                }
                "Exists" | "DoesNotExist" => {
                    complaints.push(Complaint::error(at, format_args!("operator {} takes no values", one.operator)));
                }
                other => complaints.push(Complaint::error(
                    format!("{at}.operator"),
                    format_args!("{other:?} is not In, NotIn, Exists or DoesNotExist"),
                )),
            }
        }
    }
    complaints
}
