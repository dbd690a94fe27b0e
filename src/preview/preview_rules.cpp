#include "preview/preview_rules.h"

#include "guard/lock_targets.h"
#include "guard/lock_targets_tablespace.h"
#include "guard/statement_options.h"

extern "C" {
#include "access/htup_details.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_type.h"
#include "commands/tablespace.h"
#include "commands/user.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "parser/parse_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

using core::HeavyKind;
using core::Unseen;

namespace {

[[noreturn]] void refuse_stranger(Oid relation) {
    aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relation)),
                   get_rel_name(relation));
    pg_unreachable();
}

/// The relation of that name, which the user must own or, if that is enough, may maintain.
Oid own_relation(const RangeVar* name, bool maintains = false) {
    Oid relation = RangeVarGetRelid(name, NoLock, false);
    const Oid user = GetUserId();
    if (!(maintains ? compat::may_maintain(relation, user) : compat::owns_relation(relation, user)))
        refuse_stranger(relation);
    return relation;
}

void set_work(PreviewedSteps* steps, HeavyKind kind, Oid relation) {
    WorkSize size = size_of_unlocked(kind, relation);
    steps->has_work = true;
    steps->work = {kind, relation, nullptr, size.bytes};
}

void set_light_work(PreviewedSteps* steps, Oid relation) {
    steps->has_work = true;
    steps->work = {HeavyKind::none, relation, nullptr, -1};
}

bool is_index_kind(Oid relation) {
    char kind = get_rel_relkind(relation);
    return kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX;
}

Oid toast_table_of(Oid relation) {
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
    if (!HeapTupleIsValid(row))
        return InvalidOid;
    Oid toast = reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->reltoastrelid;
    ReleaseSysCache(row);
    return toast;
}

// ---- CONCURRENTLY and the like: as the sources have it (indexcmds.c, index.c, tablecmds.c)

void add_create_index(const IndexStmt* statement, PreviewedSteps* steps) {
    Oid table = own_relation(statement->relation);
    add_relation_lock(steps, table, ShareUpdateExclusiveLock);
    set_work(steps, HeavyKind::build_index, table);
}

void add_drop_index(const DropStmt* statement, PreviewedSteps* steps) {
    for (int i = 0; i < list_length(statement->objects); i++) {
        auto* names = static_cast<List*>(list_nth(statement->objects, i));
        const RangeVar* name = makeRangeVarFromNameList(names);
        if (statement->missing_ok && !OidIsValid(RangeVarGetRelid(name, NoLock, true)))
            continue;
        Oid index = own_relation(name);
        Oid table = IndexGetRelation(index, true);
        if (OidIsValid(table))
            add_relation_lock(steps, table, ShareUpdateExclusiveLock);
        add_relation_lock(steps, index, ShareUpdateExclusiveLock);
        set_light_work(steps, index);
    }
}

void add_reindex(const ReindexStmt* statement, PreviewedSteps* steps) {
    Oid relation = own_relation(statement->relation, true);
    const bool index = is_index_kind(relation);
    Oid table = index ? IndexGetRelation(relation, true) : relation;
    const char kind = get_rel_relkind(relation);
    // Each partition in turn, in a transaction of its own.
    const bool partitioned = kind == RELKIND_PARTITIONED_TABLE || kind == RELKIND_PARTITIONED_INDEX;
    const bool concurrently = says_concurrently(statement->params);
    if (OidIsValid(table))
        add_relation_lock(steps, table, concurrently ? ShareUpdateExclusiveLock : ShareLock);
    if (index && !partitioned && !concurrently)
        add_relation_lock(steps, relation, AccessExclusiveLock);
    if (!partitioned && OidIsValid(table))
        set_work(steps, HeavyKind::build_index, table);
}

void add_detach(const AlterTableStmt* statement, PreviewedSteps* steps) {
    Oid parent = own_relation(statement->relation);
    add_relation_lock(steps, parent, ShareUpdateExclusiveLock);
    for (int i = 0; i < list_length(statement->cmds); i++) {
        const auto* command = static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i));
        if (command->subtype != AT_DetachPartition &&
            command->subtype != AT_DetachPartitionFinalize)
            continue;
        const auto* partition = reinterpret_cast<const PartitionCmd*>(command->def);
        add_relation_lock(steps, RangeVarGetRelid(partition->name, NoLock, false),
                          AccessExclusiveLock);
    }
    set_light_work(steps, parent);
}

void add_rewrite(const RangeVar* name, PreviewedSteps* steps) {
    Oid table = own_relation(name, true);
    add_relation_lock(steps, table, AccessExclusiveLock);
    if (get_rel_relkind(table) != RELKIND_PARTITIONED_TABLE)
        set_work(steps, HeavyKind::rewrite, table);
}

void add_committing(const Node* statement, PreviewedSteps* steps) {
    switch (nodeTag(statement)) {
    case T_IndexStmt:
        add_create_index(reinterpret_cast<const IndexStmt*>(statement), steps);
        break;
    case T_DropStmt:
        add_drop_index(reinterpret_cast<const DropStmt*>(statement), steps);
        break;
    case T_ReindexStmt:
        add_reindex(reinterpret_cast<const ReindexStmt*>(statement), steps);
        break;
    case T_AlterTableStmt:
        add_detach(reinterpret_cast<const AlterTableStmt*>(statement), steps);
        break;
    case T_VacuumStmt:
        add_rewrite(fully_vacuumed_table(reinterpret_cast<const VacuumStmt*>(statement)), steps);
        break;
    case compat::kClusterStatement:
        add_rewrite(compat::clustered_table(statement), steps);
        break;
    default:
        break;
    }
}

// ---- The others

/// The files of a relation that SET TABLESPACE copies: not those of a table's indexes.
int64 size_of_files(Oid relation) {
    int64 bytes = size_of_unlocked(HeavyKind::scan, relation).bytes;
    Oid toast = toast_table_of(relation);
    if (OidIsValid(toast))
        bytes += size_of_unlocked(HeavyKind::rewrite, toast).bytes;
    return bytes;
}

void add_file_copy(PreviewedSteps* steps, Oid relation) {
    add_relation_lock(steps, relation, AccessExclusiveLock);
    int64 size = RELKIND_HAS_STORAGE(get_rel_relkind(relation)) ? size_of_files(relation) : 0;
    if (!steps->has_work || size > steps->work.size) {
        steps->has_work = true;
        steps->work = {size > 0 ? HeavyKind::rewrite : HeavyKind::none, relation, nullptr,
                       size > 0 ? size : -1};
    }
}

/// May the user put relations there? As ATPrepSetTableSpace() and AlterTableMoveAll() have it.
void require_tablespace(Oid tablespace, const char* name) {
    if (tablespace != MyDatabaseTableSpace &&
        !compat::may_create_in_tablespace(tablespace, GetUserId()))
        aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLESPACE, name);
}

/// What AlterTableMoveAll() refuses, in its order.
void add_tablespace_move(const AlterTableMoveAllStmt* statement, PreviewedSteps* steps) {
    roleSpecsToIds(statement->roles);
    Oid from = get_tablespace_oid(statement->orig_tablespacename, false);
    Oid to = get_tablespace_oid(statement->new_tablespacename, false);
    if (from == GLOBALTABLESPACE_OID || to == GLOBALTABLESPACE_OID)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("cannot move relations in to or out of pg_global tablespace")));
    require_tablespace(to, statement->new_tablespacename);
    const List* relations = moved_relations(statement, from, to);
    for (int i = 0; i < list_length(relations); i++) {
        Oid relation = list_nth_oid(relations, i);
        if (!compat::owns_relation(relation, GetUserId()))
            refuse_stranger(relation);
        add_file_copy(steps, relation);
    }
}

void require_tablespaces(const AlterTableStmt* statement) {
    for (int i = 0; i < list_length(statement->cmds); i++) {
        const auto* command = static_cast<const AlterTableCmd*>(list_nth(statement->cmds, i));
        if (command->subtype == AT_SetTableSpace)
            require_tablespace(get_tablespace_oid(command->name, false), command->name);
    }
}

void add_copy(const Node* statement, PreviewedSteps* steps) {
    if (IsA(statement, AlterTableMoveAllStmt)) {
        add_tablespace_move(reinterpret_cast<const AlterTableMoveAllStmt*>(statement), steps);
    } else {
        const auto* alter = reinterpret_cast<const AlterTableStmt*>(statement);
        Oid relation = own_relation(alter->relation);
        require_tablespaces(alter);
        add_file_copy(steps, relation);
    }
    if (!steps->has_work)
        set_light_work(steps, InvalidOid);
}

void add_default_partition(const CreateStmt* statement, PreviewedSteps* steps) {
    Oid parent = own_relation(static_cast<const RangeVar*>(linitial(statement->inhRelations)));
    Oid partition = filled_default_partition(statement);
    add_relation_lock(steps, parent, AccessExclusiveLock);
    add_relation_lock(steps, partition, AccessExclusiveLock);
    set_work(steps, HeavyKind::scan, partition);
}

/// Tables and materialized views that have columns of the domain, or of one that is made of it. As
/// get_rels_with_domain() has it, which would lock them.
constexpr const char* kTablesWithDomain = R"(
    WITH RECURSIVE types(oid) AS (
        SELECT $1
        UNION
        SELECT t.oid FROM pg_catalog.pg_type t, types
        WHERE t.typbasetype OPERATOR(pg_catalog.=) types.oid AND t.typtype OPERATOR(pg_catalog.=) 'd')
    SELECT DISTINCT a.attrelid FROM pg_catalog.pg_attribute a, pg_catalog.pg_class c, types
    WHERE a.atttypid OPERATOR(pg_catalog.=) types.oid AND a.attnum OPERATOR(pg_catalog.>) 0
        AND NOT a.attisdropped AND c.oid OPERATOR(pg_catalog.=) a.attrelid
        AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,m}'::"char"[])
    ORDER BY 1)";

/// Those, as a list of OIDs in the memory of the caller.
List* tables_with(Oid domain) {
    MemoryContext caller = CurrentMemoryContext;
    Oid types[] = {OIDOID};
    Datum values[] = {ObjectIdGetDatum(domain)};
    SPI_connect();
    if (SPI_execute_with_args(kTablesWithDomain, 1, types, values, nullptr, true, 0) !=
        SPI_OK_SELECT)
        elog(ERROR, "could not look up the tables with a domain");
    MemoryContext spi_context = MemoryContextSwitchTo(caller);
    List* tables = NIL;
    for (uint64 i = 0; i < SPI_processed; i++) {
        bool is_null;
        Datum table = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null);
        tables = lappend_oid(tables, DatumGetObjectId(table));
    }
    MemoryContextSwitchTo(spi_context);
    SPI_finish();
    return tables;
}

void add_domain(const AlterDomainStmt* statement, PreviewedSteps* steps) {
    const TypeName* name = makeTypeNameFromNameList(statement->typeName);
    Oid domain = typenameTypeId(nullptr, name);
    if (!compat::owns_type(domain, GetUserId()))
        aclcheck_error_type(ACLCHECK_NOT_OWNER, domain);
    const List* tables = tables_with(domain);
    int64 largest = -1;
    for (int i = 0; i < list_length(tables); i++) {
        Oid table = list_nth_oid(tables, i);
        add_relation_lock(steps, table, ShareLock);
        WorkSize size = size_of_unlocked(HeavyKind::scan, table);
        if (!size.is_empty && size.bytes > largest) {
            largest = size.bytes;
            set_work(steps, HeavyKind::scan, table);
        }
    }
    if (!steps->has_work)
        set_light_work(steps, InvalidOid);
}

/// The tables that a statement of many partitions, or TRUNCATE, names.
const List* named_tables(const Node* statement) {
    switch (nodeTag(statement)) {
    case T_AlterTableStmt:
        return list_make1(reinterpret_cast<const AlterTableStmt*>(statement)->relation);
    case T_IndexStmt:
        return list_make1(reinterpret_cast<const IndexStmt*>(statement)->relation);
    case T_TruncateStmt:
        return reinterpret_cast<const TruncateStmt*>(statement)->relations;
    case T_LockStmt:
        return reinterpret_cast<const LockStmt*>(statement)->relations;
    default:
        return NIL;
    }
}

/// What follows from its words.
void add_known_locks(const Node* statement, PreviewedSteps* steps) {
    LockTargets targets = find_lock_targets(statement);
    for (const LockTarget& target : targets.locks) {
        if (!IsToastNamespace(get_rel_namespace(target.relation)))
            add_relation_lock(steps, target.relation, target.mode);
    }
    if (!targets.locks.empty() || targets.only_private)
        return;
    // The words are at fault, or the user may not have the locks.
    const List* names = named_tables(statement);
    for (int i = 0; i < list_length(names); i++) {
        Oid relation =
            RangeVarGetRelid(static_cast<const RangeVar*>(list_nth(names, i)), NoLock, false);
        if (!compat::owns_relation(relation, GetUserId()))
            refuse_stranger(relation);
    }
}

} // namespace

void preview_by_rules(const PreviewedStatement& statement, Unseen why, PreviewedSteps* steps) {
    Assert(why != Unseen::nothing);
    steps->unseen = why;
    const Node* node = statement.node();
    switch (why) {
    case Unseen::commits:
    case Unseen::mapped_catalog:
        add_committing(node, steps);
        break;
    case Unseen::copies_files:
        add_copy(node, steps);
        break;
    case Unseen::domain:
        add_domain(reinterpret_cast<const AlterDomainStmt*>(node), steps);
        break;
    case Unseen::default_partition:
        add_default_partition(reinterpret_cast<const CreateStmt*>(node), steps);
        break;
    default:
        add_known_locks(node, steps);
        break;
    }
}

} // namespace lockguard::pg
