#include "sessions/role_membership.h"

extern "C" {
#include "access/htup_details.h"
#include "catalog/pg_auth_members.h"
#include "nodes/pg_list.h"
#include "utils/catcache.h"
#include "utils/syscache.h"
}

namespace lockguard::pg {

bool is_member_of(Oid member, Oid role) {
    Assert(IsTransactionState());
    if (!OidIsValid(member) || !OidIsValid(role))
        return false;
    // Grows while it is walked.
    List* roles = list_make1_oid(member);
    bool found = false;
    for (int i = 0; i < list_length(roles) && !found; i++) {
        Oid next = list_nth_oid(roles, i);
        if (next == role) {
            found = true;
            break;
        }
        CatCList* memberships = SearchSysCacheList1(AUTHMEMMEMROLE, ObjectIdGetDatum(next));
        for (int j = 0; j < memberships->n_members; j++) {
            HeapTuple tuple = &memberships->members[j]->tuple;
            Oid granted = reinterpret_cast<Form_pg_auth_members>(GETSTRUCT(tuple))->roleid;
            roles = list_append_unique_oid(roles, granted);
        }
        ReleaseSysCacheList(memberships);
    }
    list_free(roles);
    return found;
}

} // namespace lockguard::pg
