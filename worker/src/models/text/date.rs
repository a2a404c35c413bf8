//! The date as chat templates state it: `strftime_now` over a time that is passed in, in UTC.

/// Names of months.
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// Names of days; 1 January 1970 was the first of these.
const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
const DAY_S: u64 = 86_400;

/// Year, month from 1 and day from 1 of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms": years that begin in March, in eras of 400).
fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let (number, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (400 * era + year + carry, number as usize, day - first + 1)
}

/// `format` with what C's strftime puts in for %Y %m %d %b %B %a %A %H %M %S and %%. None where it asks
/// for anything else.
pub(super) fn strftime(format: &str, unix_s: u64) -> Option<String> {
    let (year, month, day) = civil(unix_s / DAY_S);
    let second = unix_s % DAY_S;
    let (month_name, day_name) = (MONTHS[month - 1], DAYS[(unix_s / DAY_S % 7) as usize]);
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        text.push_str(&match characters.next()? {
            'Y' => year.to_string(),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'b' => month_name[..3].to_owned(),
            'B' => month_name.to_owned(),
            'a' => day_name[..3].to_owned(),
            'A' => day_name.to_owned(),
            'H' => format!("{:02}", second / 3_600),
            'M' => format!("{:02}", second / 60 % 60),
            'S' => format!("{:02}", second % 60),
            '%' => "%".to_owned(),
            _ => return None,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "Thursday 01 January 1970 00:00:00"),
            (951_782_400, "Tuesday 29 February 2000 00:00:00"),
            (1_709_251_199, "Thursday 29 February 2024 23:59:59"),
            (4_107_542_400, "Monday 01 March 2100 00:00:00"),
        ];
        for (unix_s, text) in cases {
            let shown = strftime("%A %d %B %Y %H:%M:%S", unix_s);
            assert_eq!(shown.as_deref(), Some(text));
        }
        assert_eq!(
            strftime("%d %b %Y", 951_782_400).as_deref(),
            Some("29 Feb 2000")
        );
        assert_eq!(strftime("%Q", 0), None);
        assert_eq!(strftime("100%", 0), None);
    }
}
