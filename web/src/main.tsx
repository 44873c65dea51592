/** Addresses to pages. */
import { render } from "preact";
import { LocationProvider, Route, Router } from "preact-iso";
import { ApiError } from "./api/client";
import { FeaturePage } from "./pages/feature";
import { FeaturesPage } from "./pages/features";
import { MapPage } from "./pages/map";
import { ReportsPage } from "./pages/reports";
import { RunsPage } from "./pages/runs";
import { SteerPage } from "./pages/steer";
import { FailurePage } from "./parts/states";
import "./style/theme.css";
import "./style/base.css";
import "./style/parts.css";
import "./style/figure.css";
import "./style/runs.css";
import "./style/features.css";
import "./style/feature.css";
import "./style/steer.css";
import "./style/reports.css";
import "./style/map.css";

const MISSING = new ApiError(404, "No such page", "Pages are / and /model/source, and below that /index, /map, /reports and /steer.");

const MissingPage = () => <FailurePage error={MISSING} />;

/** The feature page, for addresses that end in a number. */
function FeatureRoute(props: { model: string; source: string; index: string }) {
  return /^\d+$/.test(props.index) ? <FeaturePage {...props} /> : <MissingPage />;
}

function App() {
  return (
    <LocationProvider>
      <Router>
        <Route path="/" component={RunsPage} />
        <Route path="/:model/:source" component={FeaturesPage} />
        <Route path="/:model/:source/map" component={MapPage} />
        <Route path="/:model/:source/reports" component={ReportsPage} />
        <Route path="/:model/:source/steer" component={SteerPage} />
        <Route path="/:model/:source/:index" component={FeatureRoute} />
        <Route default component={MissingPage} />
      </Router>
    </LocationProvider>
  );
}

render(<App />, document.getElementById("app") as HTMLElement);
