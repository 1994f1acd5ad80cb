//! Lists and ranges of numbers, as llama-bench takes them.

use std::str::FromStr;

/// At most so many numbers, so that a slip of the finger is not a day of measuring.
const MOST: usize = 10_000;

/// The numbers of `512`, `128,256`, `1-4`, `128-512+128` or `128-1024*2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers(pub Vec<usize>);

impl Numbers {
    /// All numbers of several such, in order.
    pub fn all(several: &[Self]) -> Vec<usize> {
        several.iter().flat_map(|numbers| numbers.0.iter().copied()).collect()
    }
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "give numbers such as 512, lists such as 128,256, or ranges such as 1-4, 128-512+128 and 128-1024*2"
                .to_owned()
        };
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
            let Some((first, last)) = part.split_once('-') else {
                numbers.push(number(part)?);
                continue;
            };
            let (last, step) = match last.find(['+', '*']) {
                Some(at) => (&last[..at], Some((last.as_bytes()[at], number(&last[at + 1..])?))),
                None => (last, None),
            };
            let (mut at, last) = (number(first)?, number(last)?);
            if at > last {
                return Err(format!("the range {part} is empty: it begins after its end"));
            }
            while at <= last {
                numbers.push(at);
                let next = match step {
                    Some((b'*', factor)) => at.saturating_mul(factor),
                    Some((_, step)) => at.saturating_add(step),
                    None => at + 1,
                };
                if next <= at {
                    return Err(format!("the range {part} does not go on after {at}"));
                }
                at = next;
                if numbers.len() > MOST {
                    return Err(format!("{part} are more than {MOST} numbers"));
                }
            }
        }
        Ok(Self(numbers))
    }
}

/// A whole number from `LEAST` on.
pub fn at_least<const LEAST: i64, T: TryFrom<i128>>(text: &str) -> Result<T, String> {
    let wrong = || format!("give a whole number, at least {LEAST}");
    let number = text.trim().parse::<i128>().ok().filter(|number| *number >= i128::from(LEAST)).ok_or_else(wrong)?;
    T::try_from(number).map_err(|_| "the number is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_a_least_one() {
        assert_eq!(at_least::<-1, i64>("-1"), Ok(-1));
        assert_eq!(at_least::<-1, i64>("-2"), Err("give a whole number, at least -1".to_owned()));
        assert_eq!(at_least::<0, u32>("4294967295"), Ok(u32::MAX));
        assert_eq!(at_least::<0, u32>("4294967296"), Err("the number is too large".to_owned()));
        assert!(at_least::<0, u32>("1.5").is_err());
    }

    #[test]
    fn lists_and_ranges_are_those_of_llama_bench() {
        let read = |text: &str| text.parse::<Numbers>().map(|numbers| numbers.0);
        assert_eq!(read("512"), Ok(vec![512]));
        assert_eq!(read("128,0,7"), Ok(vec![128, 0, 7]));
        assert_eq!(read("1-4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(read("128-512+128,3"), Ok(vec![128, 256, 384, 512, 3]));
        assert_eq!(read("16-100*2"), Ok(vec![16, 32, 64]));
        for wrong in
            ["", "a", "1-", "-1", "1-4+0", "2-9*1", "0-9*2", "1-2-3", "1-99999999", "1,,2", "1-4+", "5-4", "3-1"]
        {
            assert!(read(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
