#include "core/words/ddl_advice.h"

#include <string>

namespace lockguard::core {

namespace {

/// Text that is put together from pieces and names, where a name that is not known has words
/// instead.
class Advice {
  public:
    Advice(const RemedySubject& subject, std::pmr::memory_resource& memory)
        : relation_(known(subject.relation, "the table")),
          column_(known(subject.column, "the column")), text_(&memory) {}

    template <class... Pieces>
    void say(const Pieces&... pieces) {
        ((text_ += pieces), ...);
    }

    std::string_view relation() const { return relation_; }
    std::string_view column() const { return column_; }
    std::string_view text() const { return text_; }

  private:
    static std::string_view known(std::string_view name, std::string_view otherwise) {
        return name.empty() ? otherwise : name;
    }

    std::string_view relation_;
    std::string_view column_;
    std::pmr::string text_;
};

constexpr std::string_view kValidate =
    ", and in a transaction of its own ALTER TABLE ... VALIDATE CONSTRAINT, which stops neither "
    "readers nor writers";

void advise_on_constraint(DdlRemedy remedy, Advice& advice) {
    switch (remedy) {
    case DdlRemedy::not_valid_check:
        advice.say("Add the CHECK to ", advice.relation(), " with NOT VALID", kValidate, ".");
        break;
    case DdlRemedy::not_valid_foreign_key:
        advice.say("Add the foreign key to ", advice.relation(), " with NOT VALID", kValidate, ".");
        break;
    case DdlRemedy::check_then_not_null:
        advice.say("Add CHECK (", advice.column(), " IS NOT NULL) to ", advice.relation(),
                   " with NOT VALID", kValidate,
                   ". Then SET NOT NULL needs no scan, and the CHECK "
                   "can be dropped.");
        break;
    case DdlRemedy::not_valid_not_null:
        advice.say("ALTER TABLE ", advice.relation(), " ADD CONSTRAINT ... NOT NULL ",
                   advice.column(), " NOT VALID", kValidate, ".");
        break;
    case DdlRemedy::using_index:
        advice.say("Build the index first, with CREATE UNIQUE INDEX CONCURRENTLY on ",
                   advice.relation(), "; then ADD CONSTRAINT ... USING INDEX takes but a moment.");
        break;
    case DdlRemedy::not_null_first:
        advice.say("A primary key makes its columns NOT NULL, and scans ", advice.relation(),
                   " for that: first add CHECK (... IS NOT NULL) for them with NOT VALID",
                   kValidate, ", and SET NOT NULL.");
        break;
    default:
        break;
    }
}

void advise_on_index(DdlRemedy remedy, Advice& advice) {
    switch (remedy) {
    case DdlRemedy::concurrently:
        advice.say("CREATE INDEX CONCURRENTLY, outside of a transaction block, stops no writers.");
        break;
    case DdlRemedy::index_by_partition:
        advice.say("CREATE INDEX ON ONLY ", advice.relation(),
                   ", which locks only the parent; then CREATE INDEX CONCURRENTLY on each "
                   "partition, and ALTER INDEX ... ATTACH PARTITION.");
        break;
    case DdlRemedy::reindex_concurrently:
        advice.say("REINDEX ... CONCURRENTLY, outside of a transaction block, stops neither "
                   "readers nor writers.");
        break;
    case DdlRemedy::drop_concurrently:
        advice.say("DROP INDEX CONCURRENTLY, outside of a transaction block, stops neither readers "
                   "nor writers.");
        break;
    default:
        break;
    }
}

void advise_on_data(DdlRemedy remedy, Advice& advice) {
    switch (remedy) {
    case DdlRemedy::new_column:
        advice.say("Add a new column to ", advice.relation(),
                   ", fill it in batches (and by a "
                   "trigger meanwhile), and let it take the place of ",
                   advice.column(), " by two RENAMEs in one transaction.");
        break;
    case DdlRemedy::default_then_backfill:
        advice.say("Add ", advice.column(), " to ", advice.relation(),
                   " without a default, then "
                   "SET DEFAULT for new rows, and fill the old ones in batches.");
        break;
    case DdlRemedy::refresh_concurrently:
        advice.say("REFRESH MATERIALIZED VIEW CONCURRENTLY lets readers read on; it needs a unique "
                   "index on all rows.");
        break;
    default:
        break;
    }
}

void advise_on_partition(DdlRemedy remedy, Advice& advice) {
    switch (remedy) {
    case DdlRemedy::attach_with_check:
        advice.say("First add a CHECK that implies the partition's bounds to ", advice.relation(),
                   ", and one that excludes them to the default partition if there is one, each "
                   "with NOT VALID",
                   kValidate, ". Then ATTACH PARTITION needs no scan.");
        break;
    case DdlRemedy::check_on_default:
        advice.say("First add a CHECK that excludes the new partition's bounds to the default "
                   "partition ",
                   advice.relation(), " with NOT VALID", kValidate,
                   ". Then nothing "
                   "is scanned.");
        break;
    case DdlRemedy::detach_concurrently:
        advice.say("DETACH PARTITION ... CONCURRENTLY, outside of a transaction block, stops "
                   "neither readers nor writers.");
        break;
    case DdlRemedy::create_then_attach:
        advice.say("CREATE TABLE ... (LIKE ", advice.relation(),
                   "), then ATTACH PARTITION, which "
                   "does not stop readers and writers of ",
                   advice.relation(), ".");
        break;
    case DdlRemedy::lock_only_parent:
        advice.say("With ONLY it locks only the parent ", advice.relation(),
                   "; then one partition after the other, each in a transaction of its own.");
        break;
    default:
        break;
    }
}

} // namespace

std::string_view advice_text(DdlRemedy remedy, const RemedySubject& subject,
                             std::pmr::memory_resource& memory) {
    Advice advice(subject, memory);
    advise_on_constraint(remedy, advice);
    advise_on_index(remedy, advice);
    advise_on_data(remedy, advice);
    advise_on_partition(remedy, advice);
    return keep_text(advice.text(), memory);
}

std::string_view unseen_text(Unseen unseen, Microseconds max_hold,
                             std::pmr::memory_resource& memory) {
    std::pmr::string text(&memory);
    switch (unseen) {
    case Unseen::nothing:
    case Unseen::behind_heavy_work:
        break;
    case Unseen::behind_lock:
        text = "A lock is not free: what comes behind it was not seen.";
        break;
    case Unseen::behind_deadline:
        text = "Stopped after pg_lockguard.preview_max_hold (";
        append_duration(text, max_hold);
        text += "): what comes later was not seen.";
        break;
    case Unseen::commits:
        text = "Not run, because it commits on its way: by rules.";
        break;
    case Unseen::copies_files:
        text = "Not run, because it copies files without a word beforehand: by rules.";
        break;
    case Unseen::domain:
        text = "Not run, because it scans tables without a word beforehand: by rules.";
        break;
    case Unseen::default_partition:
        text =
            "Not run, because it scans the default partition without a word beforehand: by "
            "rules. Where a CHECK there excludes the new partition's bounds, nothing is scanned.";
        break;
    case Unseen::many_partitions:
        text = "Not run, because it would lock more than ";
        text += std::to_string(kMostPartitions);
        text += " partitions: by rules; what it does with them was not seen.";
        break;
    case Unseen::runs_triggers:
        text = "Not run, because it would fire triggers: by rules.";
        break;
    case Unseen::foreign_table:
        text = "Not run, because it would act on another server: by rules.";
        break;
    case Unseen::keeps_lock:
        text = "Not run, because its lock on a sequence would stay until the transaction ends: by "
               "rules. Outside of a transaction block it is run.";
        break;
    case Unseen::mapped_catalog:
        text = "Not run, because no part of a transaction may make this catalog's files anew: by "
               "rules.";
        break;
    }
    return keep_text(text, memory);
}

} // namespace lockguard::core
