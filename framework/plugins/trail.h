#pragma once
// For code that changes stacks: whose plugin calls a thread is in (breadcrumb.h) lies on the stack and changes with it.

namespace tenon::host {

// From now on this thread is in the plugin calls of `trail` (null: in none). Those it was in, to come back to.
const void* exchange_trail(const void* trail);

}  // namespace tenon::host
