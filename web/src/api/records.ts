/** Names for what the API takes and gives, read off the generated types; nothing here is written by hand twice. */
import type { components, paths } from "./types";

/** An answer holds every field: the server writes defaults out, although the schema does not call them required. */
type Whole<T> = T extends (infer Item)[] ? Whole<Item>[] : T extends object ? { [Key in keyof T]-?: Whole<T[Key]> } : T;

type Answer<Operation> = Operation extends { responses: { 200: { content: { "application/json": infer Body } } } } ? Whole<Body> : never;
type Request<Operation> = Operation extends { requestBody: { content: { "application/json": infer Body } } } ? Body : never;

export type Run = Answer<paths["/api/v1/runs"]["get"]>[number];
export type Source = Answer<paths["/api/v1/models/{model}/sources/{source}"]["get"]>;
export type Quality = NonNullable<Source["quality"]>;
export type Estimate = Quality["fvu"];
export type LogRow = Answer<paths["/api/v1/models/{model}/sources/{source}/log"]["get"]>[number];

type FeaturesPath = paths["/api/v1/models/{model}/sources/{source}/features"]["get"];
export type FeaturesQuery = NonNullable<FeaturesPath["parameters"]["query"]>;
export type FeaturePage = Answer<FeaturesPath>;
export type FeatureRow = FeaturePage["items"][number];
export type SearchHit = Answer<paths["/api/v1/search"]["get"]>[number];

export type Feature = Answer<paths["/api/v1/models/{model}/sources/{source}/features/{index}"]["get"]>;
export type Label = NonNullable<Feature["label"]>;
export type Score = Label["scores"][number];
export type Band = Feature["bands"][number];
export type Example = Band["examples"][number];
export type Histogram = Feature["histogram"];
export type TokenValue = Feature["top_logits"][number];
export type Neighbour = Feature["neighbours"][number];

export type FeatureMap = Answer<paths["/api/v1/models/{model}/sources/{source}/map"]["get"]>;
export type FiringDocuments = Answer<paths["/api/v1/models/{model}/sources/{source}/features/{index}/documents"]["get"]>;

export type ReportSummary = Answer<paths["/api/v1/models/{model}/sources/{source}/reports"]["get"]>[number];
export type Report = Answer<paths["/api/v1/models/{model}/sources/{source}/reports/{name}"]["get"]>;
export type Measure = ReportSummary["measures"][number];
export type ReportTable = Report["tables"][number];
export type Cell = ReportTable["rows"][number][number];

type ActivationsPath = paths["/api/v1/models/{model}/sources/{source}/activations"]["post"];
export type ActivationsRequest = Partial<Request<ActivationsPath>> & { text: string };
export type TokenActivations = Answer<ActivationsPath>;

type SteerPath = paths["/api/v1/models/{model}/sources/{source}/steer"]["post"];
export type SteerRequest = Whole<Request<SteerPath>>;
export type Intervention = SteerRequest["interventions"][number];
export type Completion = Answer<SteerPath>;
export type SteerToken = Whole<components["schemas"]["SteerToken"]>;

export type PlotlyFigure = Answer<paths["/api/v1/models/{model}/sources/{source}/figures/{name}"]["get"]>;
