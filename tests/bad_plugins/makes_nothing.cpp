// Factories that return nothing, throw, crash.
#include <csignal>
#include <stdexcept>

#include "tenon/plugin.h"

TENON_PLUGIN(.id = "org.example.makes_nothing", .version = "0.1.0",
             .provides = {"patch:makes_nothing", "patch:throws_in_make", "patch:crashes_in_make"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patches.push_back({"makes_nothing", "Returns nothing.", {}, [](const tenon::Value&) { return nullptr; }});
  registrar.patches.push_back({"throws_in_make", "Throws.", {}, [](const tenon::Value&) -> std::unique_ptr<tenon::Patch> {
                                 throw std::out_of_range("beyond the end");
                               }});
  registrar.patches.push_back({"crashes_in_make", "Crashes.", {}, [](const tenon::Value&) -> std::unique_ptr<tenon::Patch> {
                                 std::raise(SIGSEGV);
                                 return nullptr;
                               }});
}
