//! Filters of lists and of what else has items.

use crate::jinja::evaluate::Called;
use crate::jinja::run::Run;
use crate::jinja::value::{Kind, List, Object, Value};
use crate::jinja::{Result, failed};

impl Run<'_> {
    pub(super) fn sequence_filter(&mut self, name: &str, value: Value, called: Called) -> Result<Value> {
        match name {
            "batch" => self.batch(&value, called),
            "slice" => self.slices(&value, called),
            "dictsort" => self.dictsort(&value, called),
            "first" => {
                called.none(name)?;
                let first = self.iterate(&value)?.into_iter().next();
                Ok(first.unwrap_or_else(|| Value::Undefined("there is no first item".into())))
            }
            "last" => {
                called.none(name)?;
                if let Value::Object(Object(Kind::Generator(_))) = value {
                    return failed("a generator has no last item; use list before last");
                }
                let last = self.iterate(&value)?.pop();
                Ok(last.unwrap_or_else(|| Value::Undefined("there is no last item".into())))
            }
            "groupby" => self.groupby(&value, called),
            "items" => {
                called.none(name)?;
                let items = match &value {
                    Value::Undefined(_) => Vec::new(),
                    Value::Dict(dict) => {
                        let view = Value::Object(Object(Kind::View(crate::jinja::value::View::Items, dict.clone())));
                        self.iterate(&view)?
                    }
                    other => return failed(format!("items wants a dict, not {}", other.type_name())),
                };
                self.generator(items)
            }
            "join" => {
                let [separator, attribute] = called.bind(name, ["d", "attribute"])?;
                let separator = self.string(&separator.unwrap_or_else(|| "".into()))?;
                let mut out = String::new();
                for (i, item) in self.iterate(&value)?.into_iter().enumerate() {
                    let item = match &attribute {
                        Some(path) if !path.is_none() => self.path(&item, path, None)?,
                        _ => item,
                    };
                    let item = self.string(&item)?;
                    let separator = if i == 0 { "" } else { &*separator };
                    self.charge(separator.len() + item.len())?;
                    out.push_str(separator);
                    out.push_str(&item);
                }
                Ok(out.into())
            }
            "list" => {
                called.none(name)?;
                let items = self.iterate(&value)?;
                self.list(items)
            }
            "map" => self.map(value, called),
            "max" | "min" => self.extreme(name, &value, called),
            "reverse" => {
                called.none(name)?;
                if let Value::Str(_) | Value::Markup(_) = &value {
                    return self.slice(&value, [None, None, Some(Value::Int(-1))]);
                }
                let lazy = !matches!(value, Value::Object(Object(Kind::Generator(_))));
                let mut items = self.iterate(&value)?;
                items.reverse();
                if lazy { self.generator(items) } else { self.list(items) }
            }
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, value, called),
            "sort" => {
                let [reverse, case_sensitive, attribute] =
                    called.bind(name, ["reverse", "case_sensitive", "attribute"])?;
                let reverse = self.flag(reverse);
                let case_sensitive = self.flag(case_sensitive);
                let mut keyed = Vec::new();
                for item in self.iterate(&value)? {
                    let key = self.sort_key(&item, attribute.as_ref(), case_sensitive)?;
                    keyed.push((key, item));
                }
                self.sort(&mut keyed, reverse)?;
                self.list(keyed.into_iter().map(|(_, item)| item).collect())
            }
            "sum" => {
                let [attribute, start] = called.bind(name, ["attribute", "start"])?;
                let mut sum = start.unwrap_or(Value::Int(0));
                if matches!(sum, Value::Str(_)) {
                    return failed("sum cannot add texts; use join");
                }
                for item in self.iterate(&value)? {
                    let item = match &attribute {
                        Some(path) if !path.is_none() => self.path(&item, path, None)?,
                        _ => item,
                    };
                    sum = self.add(sum, item)?;
                }
                Ok(sum)
            }
            _ => {
                let [case_sensitive, attribute] = called.bind(name, ["case_sensitive", "attribute"])?;
                let case_sensitive = self.flag(case_sensitive);
                let mut seen = std::collections::BTreeSet::new();
                let mut kept = Vec::new();
                for item in self.iterate(&value)? {
                    let key = self.keyed(&item, attribute.as_ref(), None, case_sensitive)?;
                    let key = self.key(&key)?;
                    if seen.insert(key) {
                        kept.push(item);
                    }
                }
                self.generator(kept)
            }
        }
    }

    fn flag(&self, value: Option<Value>) -> bool {
        value.is_some_and(|value| self.truth(&value))
    }

    /// An attribute of the item, or the item; in small letters unless case counts.
    fn keyed(
        &mut self,
        item: &Value,
        attribute: Option<&Value>,
        default: Option<&Value>,
        case_sensitive: bool,
    ) -> Result<Value> {
        let key = match attribute {
            Some(path) if !path.is_none() => self.path(item, path, default)?,
            _ => item.clone(),
        };
        match &key {
            Value::Str(text) | Value::Markup(text) if !case_sensitive => {
                self.charge(text.len())?;
                Ok(text.to_lowercase().into())
            }
            _ => Ok(key),
        }
    }

    /// The key of `sort`, whose attribute may name several. It is a list, so what is equal needs no order.
    fn sort_key(&mut self, item: &Value, attribute: Option<&Value>, case_sensitive: bool) -> Result<Value> {
        let paths: Vec<Option<Value>> = match attribute {
            Some(Value::Str(paths)) => paths.split(',').map(|path| Some(path.into())).collect(),
            other => vec![other.cloned()],
        };
        let mut keys = Vec::new();
        for path in &paths {
            keys.push(self.keyed(item, path.as_ref(), None, case_sensitive)?);
        }
        self.list(keys)
    }

    fn batch(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [count, fill] = called.bind("batch", ["linecount", "fill_with"])?;
        let Some(count) = count.as_ref().and_then(Value::as_int) else { return failed("batch wants a number") };
        let count = usize::try_from(count).unwrap_or(if count < 0 { 0 } else { usize::MAX });
        let (mut rows, mut row) = (Vec::new(), Vec::new());
        for item in self.iterate(value)? {
            if row.len() == count {
                rows.push(self.list(std::mem::take(&mut row))?);
            }
            row.push(item);
        }
        if !row.is_empty() {
            if let Some(fill) = fill.filter(|fill| !fill.is_none()) {
                let missing = count.saturating_sub(row.len());
                self.charge_items(missing)?;
                row.extend(std::iter::repeat_n(fill, missing));
            }
            rows.push(self.list(row)?);
        }
        // Without room for one item, jinja2 gives an empty row first.
        self.generator(rows)
    }

    fn slices(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [count, fill] = called.bind("slice", ["slices", "fill_with"])?;
        let Some(count @ 1..) = count.as_ref().and_then(Value::as_int) else {
            return failed("slice wants a number of slices");
        };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let items = self.iterate(value)?;
        self.charge_items(count)?;
        self.step(count / 8)?;
        let (each, longer) = (items.len() / count, items.len() % count);
        let mut items = items.into_iter();
        let mut slices = Vec::new();
        for at in 0..count {
            let mut slice: Vec<Value> = items.by_ref().take(each + usize::from(at < longer)).collect();
            if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none() && at >= longer) {
                slice.push(fill.clone());
            }
            slices.push(self.list(slice)?);
        }
        self.generator(slices)
    }

    fn dictsort(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [case_sensitive, by, reverse] = called.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
        let Value::Dict(dict) = value else {
            return failed(format!("dictsort wants a dict, not {}", value.type_name()));
        };
        let by = match by.as_ref().map_or(Some("key"), Value::as_str) {
            Some("key") => 0,
            Some("value") => 1,
            _ => return failed("dictsort sorts by key or by value"),
        };
        let case_sensitive = self.flag(case_sensitive);
        let mut keyed = Vec::new();
        for (key, value) in &dict.entries {
            let by = self.keyed(if by == 0 { key } else { value }, None, None, case_sensitive)?;
            keyed.push((by, self.tuple(vec![key.clone(), value.clone()])?));
        }
        let reverse = self.flag(reverse);
        self.sort(&mut keyed, reverse)?;
        self.list(keyed.into_iter().map(|(_, item)| item).collect())
    }

    fn groupby(&mut self, value: &Value, called: Called) -> Result<Value> {
        let [attribute, default, case_sensitive] =
            called.bind("groupby", ["attribute", "default", "case_sensitive"])?;
        let Some(attribute) = attribute else { return failed("groupby wants an attribute") };
        let default = default.filter(|default| !default.is_none());
        let case_sensitive = self.flag(case_sensitive);
        let mut keyed = Vec::new();
        for item in self.iterate(value)? {
            keyed.push((self.keyed(&item, Some(&attribute), default.as_ref(), case_sensitive)?, item));
        }
        self.sort(&mut keyed, false)?;
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for (key, item) in keyed {
            match groups.last_mut() {
                Some((last, items)) if self.equal(last, &key)? => items.push(item),
                _ => groups.push((key, vec![item])),
            }
        }
        let mut out = Vec::new();
        for (_, items) in groups {
            // The group is named as its first item says, not in small letters.
            let name = self.path(&items[0], &attribute, default.as_ref())?;
            let items = self.list(items)?;
            self.charge_items(2)?;
            out.push(Value::Tuple(List { group: true, ..List::new(vec![name, items]) }.into()));
        }
        self.list(out)
    }

    fn extreme(&mut self, name: &str, value: &Value, called: Called) -> Result<Value> {
        let [case_sensitive, attribute] = called.bind(name, ["case_sensitive", "attribute"])?;
        let case_sensitive = self.flag(case_sensitive);
        let mut best: Option<(Value, Value)> = None;
        for item in self.iterate(value)? {
            let key = self.keyed(&item, attribute.as_ref(), None, case_sensitive)?;
            let better = match &best {
                None => true,
                Some((than, _)) if name == "min" => self.order(&key, than)? == Some(std::cmp::Ordering::Less),
                Some((than, _)) => self.order(&key, than)? == Some(std::cmp::Ordering::Greater),
            };
            if better {
                best = Some((key, item));
            }
        }
        Ok(best.map_or_else(|| Value::Undefined("there are no items to compare".into()), |(_, item)| item))
    }

    fn map(&mut self, value: Value, mut called: Called) -> Result<Value> {
        if !self.truth(&value) {
            return self.generator(Vec::new());
        }
        let mut out = Vec::new();
        if called.positional.is_empty() && called.named.iter().any(|(name, _)| **name == *"attribute") {
            let [Some(path), default] = called.bind("map", ["attribute", "default"])? else {
                return failed("map wants an attribute");
            };
            let default = default.filter(|default| !default.is_none());
            for item in self.iterate(&value)? {
                out.push(self.path(&item, &path, default.as_ref())?);
            }
        } else {
            if called.positional.is_empty() {
                return failed("map wants the name of a filter, or an attribute");
            }
            let filter = called.positional.remove(0);
            let filter = self.wanted_text("map", Some(filter))?;
            for item in self.iterate(&value)? {
                let again = Called { positional: called.positional.clone(), named: called.named.clone() };
                out.push(self.deeper(|run| run.filter(&filter, item, again))?);
            }
        }
        self.generator(out)
    }

    fn select(&mut self, name: &str, value: Value, mut called: Called) -> Result<Value> {
        if !self.truth(&value) {
            return self.generator(Vec::new());
        }
        let path = match name.ends_with("attr") {
            true if called.positional.is_empty() => return failed(format!("{name} wants an attribute")),
            true => Some(called.positional.remove(0)),
            false => None,
        };
        let test = if called.positional.is_empty() { None } else { Some(called.positional.remove(0)) };
        let test = match test {
            Some(test) => Some(self.wanted_text(name, Some(test))?),
            None => None,
        };
        let mut kept = Vec::new();
        for item in self.iterate(&value)? {
            let found = match &path {
                Some(path) => self.path(&item, path, None)?,
                None => item.clone(),
            };
            let passes = match &test {
                Some(test) => {
                    let again = Called { positional: called.positional.clone(), named: called.named.clone() };
                    self.check(test, &found, again)?
                }
                None => self.truth(&found),
            };
            if passes != name.starts_with("reject") {
                kept.push(item);
            }
        }
        self.generator(kept)
    }
}
