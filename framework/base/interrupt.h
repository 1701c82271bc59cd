#pragma once
// Ctrl-C as a flag: the first one asks long work to stop cleanly, the second one ends the process at once.

namespace tenon::host {

void install_interrupt_handler();
bool interrupted();
void set_interrupted(bool value);  // Session::cancel, and tests
void throw_if_interrupted();       // Error(Interrupted)

}  // namespace tenon::host
