"""Each strategy holds out the right rows with their whole groups, and keeps pins."""

from dataclasses import replace

import h3
import numpy as np
import pandas as pd
import pytest

from roadwork.core.errors import ConfigError, SplitError
from roadwork.data.grouping.groups import Groups
from roadwork.data.splitting.splits import make_splits
from roadwork.data.splitting.strategies import parse_times
from roadwork.data.table import SampleTable
from roadwork.settings import SPLIT_NAMES, SplittingSettings

RATIOS = {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}
N = 600
ROW = np.arange(N)
GROUP = ROW // 4  # groups of four rows, two of each label
IDS = np.array([f"{i:04d}" for i in ROW], dtype=object)
# Berlin for rows 0 to 99, Tokyo for 100 to 299, Lagos for the others.
CITY = np.select([ROW < 100, ROW < 300], ["Berlin", "Tokyo"], "Lagos").astype(object)
GPS = np.select([(ROW < 100)[:, None], (ROW < 300)[:, None]], [[52.52, 13.40], [35.68, 139.65]], [6.52, 3.38])
DAY = pd.Timestamp("2025-01-01") + pd.to_timedelta(ROW // 20, unit="D")  # 1 to 30 January; group g on one day


def table_of(**columns):
    slices = pd.DataFrame({"city": CITY, "captured_at": DAY.strftime("%Y-%m-%dT12:00:00Z"), **columns})
    return SampleTable(IDS, IDS, ROW % 2, GPS, np.full(N, "", dtype=object), slices)


def groups_of(group=GROUP, set_aside=()):
    names = np.array([f"g{i:03d}" for i in group], dtype=object)
    return Groups(names, np.isin(ROW, set_aside), np.empty((0, 2), dtype=np.int64), 1.0)


def names_of(table=None, groups=None, **settings):
    table = table or table_of()
    return make_splits(table, groups or groups_of(), RATIOS, SplittingSettings(**settings)).names_by_row(table)


def shares_without(names, left_out):
    rows = np.array([(names == name).sum() for name in SPLIT_NAMES if name != left_out])
    return rows / rows.sum()


class TestGeographic:
    def test_ratios_are_of_what_is_not_set_aside(self):
        table, groups = table_of(), groups_of(set_aside=range(200))
        splits = make_splits(table, groups, RATIOS, SplittingSettings())
        assert splits.set_aside == IDS[:200].tolist()
        assert splits.shares == pytest.approx(RATIOS, abs=0.01)
        assert splits.buffer_km == 1.0

    def test_only_group_names_define_groups(self):
        two_groups = np.where(ROW < 300, 0, GROUP)
        names = names_of(groups=groups_of(two_groups))
        assert set(names[:300]) == {"train"}  # the only split that half of the rows fit


class TestRegionHoldout:
    def settings(self, *regions, column="city"):
        return {"strategy": "region_holdout", "regions": list(regions), "region_column": column}

    def test_val_test_is_the_region_and_others_keep_proportions(self):
        names = names_of(**self.settings("Tokyo"))
        assert ((names == "val_test") == (CITY == "Tokyo")).all()
        assert (names != "").all()
        assert shares_without(names, "val_test") == pytest.approx(np.array([60, 15, 15]) / 90, abs=0.01)

    def test_group_across_the_border_is_cut_and_outside_set_aside(self):
        across = np.where((ROW >= 96) & (ROW < 104), 24, GROUP)
        names = names_of(groups=groups_of(across), **self.settings("Berlin"))
        assert set(names[96:100]) == {"val_test"}
        assert set(names[100:104]) == {""}
        assert (names[104:] != "").all()

    def test_a_row_set_aside_does_not_make_its_group_held_out(self):
        across = np.where((ROW >= 99) & (ROW < 104), 25, GROUP)
        names = names_of(groups=groups_of(across, set_aside=[99]), **self.settings("Berlin"))
        assert names[99] == ""
        assert set(names[100:104]) < set(SPLIT_NAMES[:3])

    @pytest.mark.parametrize("resolution", [0, 4, 9])
    def test_h3_cells_of_any_resolution(self, resolution):
        cell = h3.latlng_to_cell(35.68, 139.65, resolution)
        names = names_of(**self.settings(cell.upper(), column=None))
        assert ((names == "val_test") == (CITY == "Tokyo")).all()

    def test_cells_and_names_together(self):
        names = names_of(**self.settings("Berlin", h3.latlng_to_cell(35.68, 139.65, 5)))
        assert ((names == "val_test") == (CITY != "Lagos")).all()

    def test_regions_that_are_numbers(self):
        names = names_of(table_of(zone=np.where(ROW < 100, 7.0, np.nan)), **self.settings("7", column="zone"))
        assert (names[:100] == "val_test").all()

    def test_unknown_regions_and_columns_name_what_exists(self):
        with pytest.raises(ConfigError, match=r"'Paris'.*'city'.*Lagos \(300.*Tokyo \(200.*Berlin \(100"):
            names_of(**self.settings("Berlin", "Paris"))
        with pytest.raises(ConfigError, match=r"region_column.*'town'.*city, captured_at"):
            names_of(**self.settings("Berlin", column="town"))
        with pytest.raises(ConfigError, match=r"'Berlin'.*H3.*\(300 .*region_column.*city, capt"):
            names_of(**self.settings("Berlin", column=None))
        paris = h3.latlng_to_cell(48.85, 2.35, 3)
        lagos = h3.latlng_to_cell(6.52, 3.38, 3)
        with pytest.raises(ConfigError, match=rf"'{paris}'.*H3.* {lagos} \(300 "):
            names_of(**self.settings(paris, column=None))

    def test_regions_without_a_label_or_without_a_rest(self):
        table = replace(table_of(), labels=np.where(ROW < 100, 0, ROW % 2))
        with pytest.raises(SplitError, match=r"Berlin .*\b100 of label 0 and 0 of label 1"):
            names_of(table, **self.settings("Berlin"))
        with pytest.raises(SplitError, match=r"\btrain\b.*regions"):
            names_of(**self.settings("Berlin", "Tokyo", "Lagos"))
        with pytest.raises(SplitError, match=r"label 1 in 0 .*3 splits"):
            names_of(replace(table_of(), labels=np.where(ROW < 100, ROW % 2, 0)), **self.settings("Berlin"))


class TestTemporal:
    def test_val_test_begins_at_the_moment(self):
        names = names_of(strategy="temporal", after="2025-01-25T12:00:00+00:00")
        assert ((names == "val_test") == (ROW >= 480)).all()
        assert shares_without(names, "val_test") == pytest.approx(np.array([60, 15, 15]) / 90, abs=0.01)
        later = names_of(strategy="temporal", after="2025-01-25T14:00:01+02:00")  # a second after noon UTC
        assert ((later == "val_test") == (ROW >= 500)).all()

    def test_a_place_seen_before_and_after_is_not_trained_on(self):
        places = ROW % 150  # each place has rows of four dates
        names = names_of(groups=groups_of(places), strategy="temporal", after="2025-01-29")
        test = ROW >= 560
        assert ((names == "val_test") == test).all()
        seen_again = np.isin(places, places[test]) & ~test
        assert seen_again.sum() == 120
        assert ((names == "") == seen_again).all()

    def test_row_without_a_time_is_kept_out_of_val_test(self, caplog):
        times = np.where(ROW == 599, None, np.where(ROW == 0, "", table_of().slices["captured_at"]))
        names = names_of(table_of(captured_at=times), strategy="temporal", after="2025-01-25")
        assert names[599] == ""  # its group is in val_test
        assert names[0] in SPLIT_NAMES[:3]
        assert any("2 of 600" in text and "'captured_at'" in text for text in caplog.messages)

    def test_date_mistakes_are_refused(self):
        with pytest.raises(ConfigError, match=r"after.*'soon'.*ISO 8601"):
            names_of(strategy="temporal", after="soon")
        with pytest.raises(ConfigError, match=r"time_column.*'date'.*city, captured_at"):
            names_of(strategy="temporal", after="2025-01-25", time_column="date")
        times = table_of().slices["captured_at"].where(ROW != 17, "last summer")
        with pytest.raises(SplitError, match=r"1 of 600.*'captured_at'.*0017.*'last summer'"):
            names_of(table_of(captured_at=times), strategy="temporal", after="2025-01-25")
        with pytest.raises(SplitError, match=r"time.*'captured_at'"):
            names_of(table_of(captured_at=[None] * N), strategy="temporal", after="2025-01-25")

    def test_dates_with_an_empty_side_report_the_time_range(self):
        span = r"from 2025-01-01T12:00:00\+00:00 to 2025-01-30T12:00:00\+00:00"
        with pytest.raises(SplitError, match=rf"0 of label 0 and 0 of label 1.*{span}"):
            names_of(strategy="temporal", after="2026-01-01")
        with pytest.raises(SplitError, match=rf"\btrain\b.*{span}"):
            names_of(strategy="temporal", after="2024-01-01")


MOMENT = pd.Timestamp("2025-06-01T12:00:00Z")


@pytest.mark.parametrize(
    "values",
    [
        ["2025-06-01T12:00:00Z", "2025-06-01 14:00:00+02:00", None, ""],
        [MOMENT, MOMENT.to_pydatetime(), None, pd.NaT],
        pd.to_datetime(["2025-06-01T12:00:00", "2025-06-01T12:00:00", None, None]),
        pd.to_datetime(["2025-06-01T14:00:00+02:00", "2025-06-01T14:00:00+02:00", None, None]),
        [1748779200, 1748779200.0, None, None],
        [1748779200000, 1748779200000, None, None],
        [1748779200 * 10**6, 1748779200 * 10**9, None, None],
        ["1748779200", "1748779200000", "", None],
    ],
)
def test_times_in_every_form(values):
    times = parse_times(pd.Series(values), IDS)
    assert (times[:2] == MOMENT).all()
    assert times[2:].isna().all()


@pytest.mark.parametrize("value", ["2025:06:01 12:00:00", "12", 12.5, "202506011200", "20250601120000", "yesterday"])
def test_values_that_are_not_time_are_rejected(value):
    with pytest.raises(SplitError, match=rf"1 of 2.*'taken'.*0001.*'{value}'"):
        parse_times(pd.Series(["2025-06-01", value], name="taken", dtype=object), IDS)


class TestRandom:
    def test_groups_are_ignored_and_rows_they_set_aside_stay_in(self):
        splits = make_splits(
            table_of(), groups_of(ROW // 300, set_aside=range(50)), RATIOS, SplittingSettings(strategy="random")
        )
        assert splits.shares == RATIOS
        assert splits.set_aside == []
        names = splits.names_by_row(table_of())
        assert [(ROW % 2)[names == name].mean() for name in SPLIT_NAMES] == [0.5] * 4
        assert len(set(names[:300])) == 4


class TestPins:
    def test_pin_takes_its_whole_group_and_others_share_the_rest(self):
        official = np.where(ROW % 8 == 0, "test", "")  # a row of every second group
        settings = {"pin_column": "official", "pin_values": {"test": "val_test"}}
        splits = make_splits(table_of(official=official), groups_of(), RATIOS, SplittingSettings(**settings))
        names = splits.names_by_row(table_of())
        assert ((names == "val_test") == (GROUP % 2 == 0)).all()
        assert shares_without(names, "val_test") == pytest.approx(np.array([60, 15, 15]) / 90, abs=0.01)
        assert splits.ratios == RATIOS
        assert splits.shares["val_test"] == 0.5

    def test_few_pins_leave_the_ratios_as_they_are(self):
        pins = np.where(ROW < 20, "val_test", np.where(ROW > 580, "train", None))
        table = table_of(pin=pins)
        splits = make_splits(table, groups_of(), RATIOS, SplittingSettings(pin_column="pin"))
        names = splits.names_by_row(table)
        assert set(names[:20]) == {"val_test"}
        assert set(names[580:]) == {"train"}
        assert splits.shares == pytest.approx(RATIOS, abs=0.01)

    def test_numbers_as_values(self):
        names = names_of(
            table_of(fold=np.where(ROW < 40, 1.0, np.nan)), pin_column="fold", pin_values={"1": "val_calib"}
        )
        assert (names[:40] == "val_calib").all()

    def test_random_pins_rows_alone(self):
        pins = np.where(ROW % 4 == 0, "train", "")
        names = names_of(table_of(pin=pins), strategy="random", pin_column="pin")
        assert (names[ROW % 4 == 0] == "train").all()
        assert (names[ROW % 4 == 1] != "train").any()

    def test_pinned_row_that_is_set_aside_is_warned_about(self, caplog):
        pins = np.where(ROW < 20, "val_test", "")
        names = names_of(table_of(pin=pins), groups_of(set_aside=[3]), pin_column="pin")
        assert names[3] == ""
        [message] = caplog.messages
        assert "1 pinned rows" in message

    def test_two_pins_in_one_group(self):
        pins = np.select([ROW == 41, ROW == 43], ["train", "val_test"], "")
        with pytest.raises(SplitError, match=r"'g010'.*0041.*train.*0043.*val_test"):
            names_of(table_of(pin=pins), pin_column="pin")
        with pytest.raises(SplitError, match=r"0041.*train.*0043.*val_test"):
            names_of(table_of(pin=pins).take(ROW[::-1]), groups_of(GROUP[::-1]), pin_column="pin")
        names = names_of(table_of(pin=pins), groups_of(set_aside=[43]), pin_column="pin")
        assert set(names[40:43]) == {"train"}

    def test_missing_pin_column_or_no_matching_value_is_refused(self):
        with pytest.raises(ConfigError, match=r"pin_column.*'part'.*city, captured_at"):
            names_of(pin_column="part")
        with pytest.raises(ConfigError, match=r"'city'.*Lagos \(300.*pin_values.*train, val_sel"):
            names_of(pin_column="city")

    def test_pins_that_agree_with_a_region_or_a_date(self):
        table = table_of(pin=np.where(ROW < 20, "val_test", np.where(ROW > 580, "val_select", "")))
        names = names_of(table, strategy="region_holdout", regions=["Berlin"], region_column="city", pin_column="pin")
        assert ((names == "val_test") == (CITY == "Berlin")).all()
        assert set(names[580:]) == {"val_select"}

    @pytest.mark.parametrize(
        ("pins", "group", "reason"),
        [
            ({7: "train"}, GROUP, r"first 0007: it is pinned to train, but is in the regions Berlin"),
            ({300: "val_test"}, GROUP, r"first 0300: it is pinned to val_test, but is not in the regions Berlin"),
            ({101: "train"}, ROW // 8, r"first 0101: .* to train, but shares a group with rows in the regions Berlin"),
        ],
    )
    def test_pins_against_a_region(self, pins, group, reason):
        table = table_of(pin=[pins.get(row, "") for row in ROW])
        with pytest.raises(SplitError, match=rf"\b1 pinned.*{reason}.*val_test"):
            names_of(
                table,
                groups_of(group),
                strategy="region_holdout",
                regions=["Berlin"],
                region_column="city",
                pin_column="pin",
            )

    def test_pins_against_a_date(self):
        table = table_of(pin=np.where(ROW == 590, "train", ""))
        with pytest.raises(SplitError, match=r"0590.*\btrain\b.*2025-01-25"):
            names_of(table, strategy="temporal", after="2025-01-25", pin_column="pin")

    def test_pins_of_one_label_still_leave_each_split_both(self):
        table = replace(table_of(pin=np.where(ROW < 120, "val_test", "")), labels=np.where(ROW < 120, 0, ROW % 2))
        names = names_of(table, pin_column="pin")
        assert (names[:120] == "val_test").all()
        assert set(table.labels[names == "val_test"]) == {0, 1}
        assert (names == "val_test").sum() == 124
