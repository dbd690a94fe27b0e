// The polite way for a statement, chosen by its words.
#pragma once

#include "core/heavy_work.h"
#include "core/words/ddl_advice.h"

#include "boundary/compat.h"

namespace lockguard::pg {

struct ChosenRemedy {
    core::DdlRemedy remedy;
    const char* column; // null where it is about none; not quoted
};

/// \param statement  as it was parsed, or later
/// \param kind       the heavy work that it would begin with; none where it has none
/// \param relation   of that work, or InvalidOid
///
/// Looks names up without taking a lock. May ereport, as such look-ups do.
ChosenRemedy choose_remedy(const Node* statement, core::HeavyKind kind, Oid relation);

/// The same in words, empty where there is none. In the current memory context.
///
/// \param relation_text  "public.orders"; may be empty
std::string_view advice_for(const Node* statement, core::HeavyKind kind, Oid relation,
                            std::string_view relation_text);

} // namespace lockguard::pg
