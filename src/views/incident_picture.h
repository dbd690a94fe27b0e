// The picture of an incident, as it is kept, for drawing: names are looked up now, in the viewer's
// database, and text is made valid there.
#pragma once

#include "core/words/pictures.h"

#include "sessions/object_names.h"
#include "shmem/incident_ring.h"

namespace lockguard::features {

struct IncidentPicture {
    core::WaitPicture picture;
    core::PictureLabel* labels; // parallel to the picture's nodes
};

/// In the current memory context. Survives any content.
IncidentPicture incident_picture(const pg::Incident& incident, pg::NameLookup names);

} // namespace lockguard::features
