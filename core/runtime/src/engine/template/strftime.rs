//! C's `strftime`, in UTC and English, for templates that print the date.

use std::time::{SystemTime, UNIX_EPOCH};

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
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// Unknown directives are kept as they are. Times before 1970 count as 1970.
pub(super) fn strftime(now: SystemTime, format: &str) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days as usize + 4) % 7]);

    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = rest.next();
        out += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('j') => format!("{:03}", days - days_to_year(year) + 1),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
    }
    out
}

/// Days since 1970-01-01 to year, month (1-12) and day (1-31) of the Gregorian calendar, counting
/// in years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_to_year(year: u64) -> u64 {
    let leap_days = |y: u64| y / 4 - y / 100 + y / 400;
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_python() {
        // Each line: datetime.datetime.fromtimestamp(t, datetime.UTC).strftime("%a %A %d %e %b %B
        // %Y %y %j %H:%M:%S %I %p")
        for (t, expected) in [
            (
                0,
                "Thu Thursday 01  1 Jan January 1970 70 001 00:00:00 12 AM",
            ),
            (
                951_782_399,
                "Mon Monday 28 28 Feb February 2000 00 059 23:59:59 11 PM",
            ),
            (
                951_782_400,
                "Tue Tuesday 29 29 Feb February 2000 00 060 00:00:00 12 AM",
            ),
            (
                1_735_689_599,
                "Tue Tuesday 31 31 Dec December 2024 24 366 23:59:59 11 PM",
            ),
            (
                4_107_542_400,
                "Mon Monday 01  1 Mar March 2100 00 060 00:00:00 12 AM",
            ),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(t);
            assert_eq!(
                strftime(now, "%a %A %d %e %b %B %Y %y %j %H:%M:%S %I %p"),
                expected
            );
        }
        assert_eq!(
            strftime(UNIX_EPOCH, "%F %T %Z %z 100%% %Q %"),
            "1970-01-01 00:00:00 UTC +0000 100% %Q %"
        );
    }
}
