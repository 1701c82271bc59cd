// An exception of the standard library leaves the registration; half of it has happened.
#include <stdexcept>

#include "tenon/plugin.h"

TENON_PLUGIN(.id = "org.example.throws_in_register", .version = "0.1.0", .provides = {"patch:throws_in_register"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patches.push_back({"throws_in_register", "", {}, nullptr});
  throw std::runtime_error("no luck today");
}
